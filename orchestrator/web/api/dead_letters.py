"""Dead letters: list, replay, discard."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, RowMapping

from tenants.errors import Conflict, NotFound, Unavailable
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.dead_letters.letters import LetterFilter

from ..http.auth import Access
from ..http.models import Listing, Nothing, Query
from ..http.routing import Call, Reply, Route
from .models.admin import DeadLettersQuery, DeadLetterSummary, DeadLetterView, DiscardRequest, ReplayRequest, Resolved
from .models.jobs import JobView

#: Most letters that one call resolves, and that its answer lists.
RESOLVED_AT_ONCE, SHOWN_LETTERS = 1000, 100

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
    """Continue the job at the failed step. Finished steps and the draft stay, and the ledger is checked first."""
    letter = call.service.database.read(lambda connection: dead_letters.fetch(connection, call.params["id"]))
    job = call.service.jobs.replay(letter["id"])
    return Reply(job, 202, audit=_audit_of(letter, "replayed"))


def discard_letter(call: Call[Query, Any]) -> Reply:
    letter = call.service.database.write(
        lambda connection: dead_letters.resolve(connection, call.params["id"], "discarded")
    )
    return Reply(status=204, audit=_audit_of(letter, "discarded"))


def _audit_of(letter: RowMapping, resolution: str) -> dict[str, Any]:
    named = {name: letter[name] for name in ("account", "lane", "job_id", "error_code")}
    return {**named, "before": {"resolution": None}, "after": {"resolution": resolution}}


def replay_all(call: Call[Query, ReplayRequest]) -> Reply:
    """Replay the oldest first, spread over time, so that the part that failed is not overloaded again.

    Steps whose outcome is unknown are left out: a person has to look at each.
    """
    pause = 1.0 / call.body.per_second if call.body.per_second is not None else 0.0
    jobs = call.service.jobs

    def replay(letter: RowMapping, number: int) -> bool:
        try:
            jobs.replay(letter["id"], delay_seconds=number * pause)
        except (Conflict, NotFound):
            return False
        return True

    return _resolve_all(call, replay, only_known_outcomes=True)


def discard_all(call: Call[Query, DiscardRequest]) -> Reply:
    database = call.service.database

    def discard(letter: RowMapping, number: int) -> bool:
        try:
            database.write(lambda connection: dead_letters.resolve(connection, letter["id"], "discarded"))
        except NotFound:  # another call resolved it first
            return False
        return True

    return _resolve_all(call, discard)


def _resolve_all(
    call: Call[Query, Any], resolve: Callable[[RowMapping, int], bool], *, only_known_outcomes: bool = False
) -> Reply:
    """Resolve each letter in its own transaction: if one fails, the earlier ones stay resolved and are reported."""
    wanted, database = call.body.filter, call.service.database
    chosen = LetterFilter(wanted.account, wanted.lane, wanted.pipeline, wanted.error_code, only_known_outcomes)
    matched = database.read(lambda connection: dead_letters.count(connection, chosen))
    found = database.read(lambda connection: dead_letters.heads(connection, chosen, limit=RESOLVED_AT_ONCE))
    done: list[str] = []
    audit = {"filter": wanted.model_dump(exclude_none=True), "before": {"open": matched}}
    if call.body.dry_run:
        ids = [letter["id"] for letter in found[:SHOWN_LETTERS]]
        counts = {"matched": matched, "resolved": 0, "skipped": 0, "left": matched}
        return Reply(
            {**counts, "stopped": None, "ids": ids}, audit={**audit, "after": audit["before"], "dry_run": True}
        )
    looked_at, stopped = 0, None
    for letter in found:
        try:
            resolved = resolve(letter, len(done))
        except Unavailable as error:
            if not done:
                raise
            stopped = f"letter {letter['id']}: {error}"
            break
        looked_at += 1
        if resolved:
            done.append(letter["id"])
    answer = {
        "matched": matched,
        "resolved": len(done),
        "skipped": looked_at - len(done),
        "left": max(0, matched - looked_at),
        "stopped": stopped,
        "ids": done[:SHOWN_LETTERS],
    }
    return Reply(answer, audit={**audit, "after": {"open": matched - len(done)}, **answer})


def letter_exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the letter of the path exists."""
    call.service.database.read(lambda connection: dead_letters.fetch(connection, call.params["id"]))


_LETTERS = "/v1/admin/dead-letters"

_route = partial(Route, tag="Dead letters", access=Access.ADMIN)

ROUTES = [
    _route(
        "GET",
        _LETTERS,
        list_letters,
        "List open dead letters, newest first",
        {200: Listing[DeadLetterSummary]},
        query=DeadLettersQuery,
    ),
    _route(
        "POST",
        f"{_LETTERS}:replay",
        replay_all,
        "Replay all dead letters that match a filter",
        {200: Resolved},
        body=ReplayRequest,
        description=(
            "The oldest first, at most 1,000 in a call. `per_second` spreads the jobs over time. Those with "
            "the error code `outcome_unknown` may have taken effect: only a filter that names this code matches them."
        ),
    ),
    _route(
        "POST",
        f"{_LETTERS}:discard",
        discard_all,
        "Discard all dead letters that match a filter",
        {200: Resolved},
        body=DiscardRequest,
        description="The oldest first, at most 1,000 in a call; their jobs stay as they ended.",
    ),
    _route("GET", f"{_LETTERS}/{{id}}", get_letter, "Get a dead letter", {200: DeadLetterView}),
    _route(
        "POST",
        f"{_LETTERS}/{{id}}:replay",
        replay_letter,
        "Replay a dead letter",
        {202: JobView},
        codes=("job_not_retryable",),
        exists=letter_exists,
    ),
    _route("DELETE", f"{_LETTERS}/{{id}}", discard_letter, "Discard a dead letter", {204: None}),
]
