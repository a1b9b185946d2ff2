"""Reads request bodies: bounded in size, of one media type, strict JSON.

A body whose Content-Length is too large is refused before it is read; one without a length, once it is too large.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .cpu_budget import CpuBudget
from .json_parser import MalformedJson, parse_json
from .problems import Problem, invalid

#: `isdigit` takes digits of other scripts, which `int` then refuses, and numbers of thousands of digits.
_LENGTH = re.compile(r"[0-9]{1,18}")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        Problem: 413, it is larger than `limit` bytes; the connection is closed then, so that the rest is never read.
    """
    announced = request.headers.get("content-length")
    if announced is not None and (_LENGTH.fullmatch(announced) is None or int(announced) > limit):
        raise _too_large(limit)
    if announced == "0" or (announced is None and "transfer-encoding" not in request.headers):
        return b""
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect:
        raise Problem("malformed_json", "the connection ended before the body did") from None
    return b"".join(chunks)


def check_json_type(request: Request) -> None:
    """Refuse any other type than JSON in UTF-8, and compression: a small body could become a large one.

    Raises:
        Problem: 415.
    """
    codings = [each.strip().lower() for each in ",".join(request.headers.getlist("content-encoding")).split(",")]
    coding = next((each for each in codings if each not in ("", "identity")), None)
    if coding is not None:
        raise Problem(
            "unsupported_media_type",
            f"the body's Content-Encoding is {coding!r}; send it uncompressed, without that header",
            headers={"Accept-Encoding": "identity"},
        )
    value = request.headers.get("content-type", "")
    media_type, *parameters = (part.strip() for part in value.lower().split(";"))
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    charsets = [each.partition("=")[2].strip(" \"'") for each in parameters if each.startswith("charset")]
    if not is_json or any(each not in ("utf-8", "utf8") for each in charsets):
        raise Problem(
            "unsupported_media_type",
            f"the body's type is {value!r}; send application/json"
            if value
            else "the body has no Content-Type; send application/json",
            headers={"Accept": "application/json"},
        )


def decode_json(body: bytes, budget: CpuBudget | None = None) -> Any:
    """The body's value.

    Raises:
        Problem: 400, it is not JSON; 422, it is JSON that is not allowed.
        CpuBudgetExceeded: it took more CPU than `budget` allows.
    """
    if not body.strip():
        raise Problem("malformed_json", "the body is empty; send a JSON object")
    try:
        value, faults = parse_json(body, budget)
    except MalformedJson as error:
        raise Problem("malformed_json", str(error)) from None
    if faults:
        raise invalid(faults)
    return value


def _too_large(limit: int) -> Problem:
    return Problem("too_large", f"the body is larger than {limit} bytes", headers={"Connection": "close"})
