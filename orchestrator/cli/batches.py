"""Jobs from a file of JSON lines, sent a thousand at a time; faults name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import typer

from ..client import InvalidRequest, JobRequest, Onelane, OnelaneClientError, Resource
from ..terminal import say
from .context import parse_json, read_text

#: Jobs in one request; the API takes no more.
CHUNK_JOBS = 1000

#: The number of a line, and its job.
Line = tuple[int, dict[str, Any]]


def read_jobs(file: str, pipeline: str | None) -> list[Line]:
    """The jobs of a file, or of standard input for -; blank lines are left out.

    Raises:
        BadParameter: it cannot be read, or a line is no JSON object.
    """
    text = read_text("FILE", file if file == "-" else f"@{file}")
    lines: list[Line] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise typer.BadParameter(f"FILE: line {number} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise typer.BadParameter(f"FILE: line {number} must be a JSON object")
        lines.append((number, value if pipeline is None else {"pipeline": pipeline, "input": value}))
    return lines


def accept(onelane: Onelane, account: str, lines: Sequence[Line], key: str | None) -> Iterator[Resource]:
    """The summaries of the jobs, in order.

    Raises:
        InvalidRequest: a job has a fault; the error names its line. The chunks before it were accepted.
        OnelaneClientError: a chunk was refused, or no service answered. The chunks before it were accepted.
    """
    for number, chunk in enumerate(_chunks(lines)):
        jobs = [cast("JobRequest", job) for _, job in chunk]
        own = None if key is None else f"{key}.{number}"
        try:
            yield from onelane.jobs.create_many(account, jobs, idempotency_key=own)
        except OnelaneClientError as error:
            if number:
                say(f"{number * CHUNK_JOBS} jobs before line {chunk[0][0]} were accepted")
            raise (_by_line(error, chunk) if isinstance(error, InvalidRequest) else error) from None


def _chunks(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    for start in range(0, len(lines), CHUNK_JOBS):
        yield lines[start : start + CHUNK_JOBS]


def _by_line(error: InvalidRequest, chunk: Sequence[Line]) -> InvalidRequest:
    def place(where: str) -> str:
        found = re.fullmatch(r"jobs\.(\d+)\.?(.*)", where)
        return where if found is None else f"line {chunk[int(found[1])][0]}: {found[2] or 'the job'}"

    errors, detail = [], error.detail
    for where, message in error.errors:
        errors.append((place(where), message))
        detail = detail.replace(f"{where}: {message}", f"{place(where)}: {message}")
    return InvalidRequest(error.status, error.code, detail, errors, error.request_id)
