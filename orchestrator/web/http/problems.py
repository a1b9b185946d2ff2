"""Errors as RFC 9457 problem documents, and the table that maps codes to HTTP.

Invariants
- Every error has a `code` of `PROBLEMS`. An unexpected exception is `internal`, and its text stays in the log: no
  stack trace, SQL or server path is sent.
- `type` is a name, not an address to look up.
- A problem document is bounded, whatever it quotes: an answer is not larger than its request, or than 24 KiB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dramatiq.errors import BrokerConnectionError
from starlette.responses import Response

from tenants.database.transactions import CommitUnknown
from tenants.database.trouble import sentence
from tenants.errors import Fault, InvalidInput, LimitReached, NotWritable, OnelaneError
from tenants.queues import InvalidEntry, QueueError, ServerRefuses

from ...json_text import to_json

PROBLEM_JSON = "application/problem+json"
#: Most characters of the detail, of a fault's message, of a part of its place, and of all faults together.
_MAX_DETAIL = 1000
_MAX_MESSAGE = 500
_MAX_PLACE_PART = 100
_MAX_ERRORS = 16_384
#: Parts of a deep place that are shown at either end.
_PLACE_ENDS = 8


class Kind(NamedTuple):
    """The status and title of a code."""

    status: int
    title: str


PROBLEMS: Mapping[str, Kind] = {
    "malformed_json": Kind(400, "The body is not JSON"),
    "unauthenticated": Kind(401, "A valid key is needed"),
    "forbidden": Kind(403, "The key may not do this"),
    "not_found": Kind(404, "Not found"),
    "method_not_allowed": Kind(405, "The method does not apply here"),
    "request_timeout": Kind(408, "The request did not arrive in time"),
    "idempotency_conflict": Kind(409, "The idempotency key was used with another body"),
    "idempotency_in_progress": Kind(409, "The first call with this idempotency key still runs"),
    "job_finished": Kind(409, "The job has ended"),
    "job_not_retryable": Kind(409, "The job cannot be retried"),
    "not_awaiting_approval": Kind(409, "The job does not await approval"),
    "draft_not_pending": Kind(409, "The draft can no longer be changed"),
    "publication_not_unknown": Kind(409, "The publication's outcome is known"),
    "schedule_ended": Kind(409, "The schedule's inputs are used up"),
    "queue_not_empty": Kind(409, "The tenant queue is not empty"),
    "account_busy": Kind(409, "A step of the account is running"),
    "account_draining": Kind(409, "The account takes no new jobs"),
    "account_suspended": Kind(409, "The account is suspended"),
    "conflict": Kind(409, "The state does not allow this"),
    "stale_version": Kind(412, "The resource has changed"),
    "too_large": Kind(413, "The body is too large"),
    "unsupported_media_type": Kind(415, "The media type does not apply here"),
    "invalid_request": Kind(422, "The request is not valid"),
    "unknown_pipeline": Kind(422, "There is no such pipeline"),
    "invalid_input": Kind(422, "The input does not fit the pipeline"),
    "invalid_schedule": Kind(422, "The schedule is not valid"),
    "invalid_image": Kind(422, "The image cannot be used"),
    "unsafe_url": Kind(422, "The URL is not allowed"),
    "precondition_required": Kind(428, "If-Match is needed"),
    "headers_too_large": Kind(431, "The head of the request is too large"),
    "rate_limited": Kind(429, "Too many requests"),
    "queue_full": Kind(429, "Too many jobs are waiting"),
    "quota_exhausted": Kind(429, "The daily quota is used up"),
    "internal": Kind(500, "Internal error"),
    "unavailable": Kind(503, "A part that the call needs is down"),
}

#: Codes for errors that Starlette raises by itself.
CODES_BY_STATUS: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    503: "unavailable",
}


_NOT_KNOWN = (
    "the connection to the database was lost during a commit, so it is unknown whether the request took effect: "
    "repeat it with the same idempotency key, or check first"
)
_REDIS_AWAY = "Redis cannot be reached, and this call needs it; nothing was changed"


class Problem(Exception):
    """An error of the HTTP layer; the layers below raise `tenants.errors`.

    `detail` names the ids involved and what to do; `faults` locate each fault in the request.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        faults: Sequence[Fault] = (),
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})


def invalid(faults: Sequence[Fault]) -> Problem:
    """422 `invalid_request` for these faults; the detail names the first three."""
    shown = "; ".join(f"{_place(each)}: {each.message}" if each.loc else each.message for each in faults[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return Problem("invalid_request", shown + more, faults)


def problem_of(error: Exception) -> Problem:
    """Any error as a problem; an unexpected one becomes `internal` without its text."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OnelaneError) and error.code in PROBLEMS and error.code != "internal":
        headers = {}
        if isinstance(error, LimitReached):
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        elif error.code == "unavailable":
            return Problem("unavailable", _without_internals(error), headers={"Retry-After": "1"})
        faults = error.faults if isinstance(error, InvalidInput) else ()
        return Problem(error.code, str(error), faults, headers=headers)
    if isinstance(error, InvalidEntry):
        place, colon, message = str(error).partition(": ")
        return Problem("invalid_request", str(error), [Fault((place,), message)] if colon else ())
    if isinstance(error, ServerRefuses):
        detail = f"Redis refuses this call: {error.meaning}; nothing was changed"
        return Problem("unavailable", detail, headers={"Retry-After": "1"})
    if isinstance(error, BrokerConnectionError | QueueError):
        return Problem("unavailable", _REDIS_AWAY, headers={"Retry-After": "1"})
    return Problem("internal", "an unexpected error occurred; the server's log has it under the request id")


def problem_response(problem: Problem) -> Response:
    kind = PROBLEMS[problem.code]
    document: dict[str, Any] = {
        "type": f"urn:onelane:problem:{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": _cut(problem.detail, _MAX_DETAIL),
        "code": problem.code,
    }
    if problem.faults:
        document["errors"] = _shown_faults(problem.faults)
    headers = problem.headers
    if kind.status == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="onelane"', **headers}
    return Response(to_json(document), kind.status, headers, PROBLEM_JSON)


def _shown_faults(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """The first faults, as many as fit; always one."""
    shown: list[dict[str, Any]] = []
    left = _MAX_ERRORS
    for fault in faults:
        each = {"loc": list(_shown_place(fault)), "message": _cut(fault.message, _MAX_MESSAGE)}
        left -= len(each["message"]) + sum(len(str(part)) for part in each["loc"])
        if left < 0 and shown:
            break
        shown.append(each)
    return shown


def _shown_place(fault: Fault) -> tuple[str | int, ...]:
    loc = fault.loc
    if len(loc) > 2 * _PLACE_ENDS:
        loc = (*loc[:_PLACE_ENDS], "…", *loc[-_PLACE_ENDS:])
    return tuple(_cut(part, _MAX_PLACE_PART) if isinstance(part, str) else part for part in loc)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _place(fault: Fault) -> str:
    return ".".join(str(part) for part in _shown_place(fault))


def _without_internals(error: OnelaneError) -> str:
    """Which part is down. A driver's message has hosts, users and SQL, so it is not sent."""
    if isinstance(error, CommitUnknown):
        return _NOT_KNOWN
    if isinstance(error, NotWritable):
        return f"{sentence(error.reason)}; nothing was accepted"
    return _REDIS_AWAY if "redis" in str(error).lower() else "the database cannot be reached; nothing was accepted"
