"""Dead letters: look, replay, discard."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping

from tenants.errors import JobNotRetryable
from tenants.store import dead_letters
from tenants.store.dead_letters import LetterFilter

from .auth import Access
from .models.admin import DeadLettersQuery, DeadLetterSummary, DeadLetterView
from .models.base import Listing, Nothing, Query
from .models.jobs import JobView
from .routing import Call, Reply, Route

_ATTEMPT = ("number", "worker", "started_at", "finished_at", "outcome", "error")


def _letter_summary(row: RowMapping) -> dict[str, Any]:
    error = {name: value for name, value in row["error"].items() if name != "traceback"}
    shown = ("id", "account", "lane", "pipeline", "actor", "job_id", "step_id", "error_code")
    return {
        **{name: row[name] for name in shown},
        "error": error,
        "attempt_count": row["attempts"],
        "created_at": row["created_at"],
        "resolution": row["resolution"],
        "resolved_at": row["resolved_at"],
    }


def list_letters(call: Call[DeadLettersQuery, Any]) -> Reply:
    query = call.query
    chosen = LetterFilter(query.account, query.lane, query.pipeline, query.error_code)
    rows, following = call.service.database.read(
        lambda connection: dead_letters.page(connection, chosen, limit=query.limit, cursor=query.cursor)
    )
    return Reply({"items": [_letter_summary(row) for row in rows], "next_cursor": following})


def get_letter(call: Call[Query, Any]) -> Reply:
    def read(connection: Connection) -> dict[str, Any]:
        row = dead_letters.fetch(connection, call.params["id"])
        tries = dead_letters.tries(connection, row["step_id"])
        return {
            **_letter_summary(row),
            "message": row["message"],
            "traceback": row["error"].get("traceback"),
            "attempts": [{name: each[name] for name in _ATTEMPT} for each in tries],
        }

    return Reply(call.service.database.read(read))


def replay_letter(call: Call[Query, Nothing]) -> Reply:
    """Let the job go on from the step that died; finished steps and the draft stay, the ledger is asked first."""
    database = call.service.database
    letter = database.read(lambda connection: dead_letters.fetch(connection, call.params["id"]))
    if letter["resolution"] is not None:
        raise JobNotRetryable(f"dead letter {letter['id']} was {letter['resolution']} already")
    if letter["job_id"] is None:
        raise JobNotRetryable(f"dead letter {letter['id']} belongs to no job; send its message anew or discard it")
    return Reply(call.service.jobs.retry(letter["job_id"]), 202)


def discard_letter(call: Call[Query, Any]) -> Reply:
    call.service.database.write(lambda connection: dead_letters.resolve(connection, call.params["id"], "discarded"))
    return Reply(status=204)


def letter_exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the letter of the path is there."""
    call.service.database.read(lambda connection: dead_letters.fetch(connection, call.params["id"]))


_LETTERS = "/v1/admin/dead-letters"

ROUTES = [
    Route(
        "GET",
        _LETTERS,
        list_letters,
        Access.ADMIN,
        "List open dead letters, newest first",
        {200: Listing[DeadLetterSummary]},
        "Dead letters",
        query=DeadLettersQuery,
    ),
    Route(
        "GET", f"{_LETTERS}/{{id}}", get_letter, Access.ADMIN, "One dead letter", {200: DeadLetterView}, "Dead letters"
    ),
    Route(
        "POST",
        f"{_LETTERS}/{{id}}:replay",
        replay_letter,
        Access.ADMIN,
        "Let the job go on from the step that died",
        {202: JobView},
        "Dead letters",
        codes=("job_not_retryable",),
        exists=letter_exists,
    ),
    Route(
        "DELETE",
        f"{_LETTERS}/{{id}}",
        discard_letter,
        Access.ADMIN,
        "Discard a dead letter",
        {204: None},
        "Dead letters",
    ),
]
