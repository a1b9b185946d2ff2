"""What the client raises.

OnelaneClientError
├── NotReachable            no service answered at that address, or the connection broke
├── ExportCut               an export ended before its last line
└── ApiError                the service refused: status, stable code, detail, the faults by field
├── InvalidRequest      400, 413, 415, 422: the call is wrong; `errors` name each field
├── Unauthenticated     401: no key, or one that is unknown or has expired
├── Forbidden           403: it needs a key with scope admin
├── NotFound            404: not found, or it is another account's
├── Conflict            409, 412, 428: the state does not allow it; `code` says why
├── TooMany             429: a rate, `queue_full` or `quota_exhausted`; `retry_after` says when
└── ServiceFailed       5xx: the service failed, or a part of it is down
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx2


class OnelaneClientError(Exception):
    """Base of this client's errors."""


class NotReachable(OnelaneClientError):
    """No service answered; the message has the address."""


class ExportCut(OnelaneClientError):
    """An export ended before its last line; the message says why, if the service reported it."""


class ApiError(OnelaneClientError):
    """The service refused. `code` is that of the problem document; `errors` are pairs of place and message."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: list[tuple[str, str]],
        request_id: str,
        retry_after: float | None = None,
    ) -> None:
        faults = [f"{place}: {message}" for place, message in errors]
        # The detail names the first faults already.
        lines = [f"{detail or code} ({status} {code})", *(f"  {fault}" for fault in faults if fault not in detail)]
        super().__init__("\n".join(lines))
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        #: Seconds after which the service suggests another attempt.
        self.retry_after = retry_after


class InvalidRequest(ApiError):
    """The call itself is wrong."""


class Unauthenticated(ApiError):
    """The key is missing, unknown or has expired."""


class Forbidden(ApiError):
    """The key may not do this."""


class NotFound(ApiError):
    """Not found, or it belongs to another account."""


class Conflict(ApiError):
    """The state of the resource does not allow the call."""


class TooMany(ApiError):
    """A limit was reached."""


class ServiceFailed(ApiError):
    """The service, or a part that it needs, is down."""


_KINDS: Mapping[int, type[ApiError]] = {
    **dict.fromkeys((400, 405, 413, 415, 422), InvalidRequest),
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    **dict.fromkeys((409, 412, 428), Conflict),
    429: TooMany,
}


def api_error(answer: httpx2.Response) -> ApiError:
    """The error of an answer with a status of 400 or more."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    errors = [
        (".".join(str(part) for part in each.get("loc", ())) or "request", str(each.get("message", "")))
        for each in problem.get("errors") or ()
        if isinstance(each, dict)
    ]
    kind = ServiceFailed if answer.status_code >= 500 else _KINDS.get(answer.status_code, ApiError)
    after = answer.headers.get("retry-after", "")
    return kind(
        answer.status_code,
        str(problem.get("code") or "unknown"),
        str(problem.get("detail") or problem.get("title") or answer.reason_phrase),
        errors,
        answer.headers.get("x-request-id", ""),
        float(after) if after.isascii() and after.isdigit() else None,
    )
