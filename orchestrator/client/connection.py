"""One connection pool to one service: a request, the pages of a list, a stream of events, and what goes wrong.

Invariant: no request is repeated by itself, only a stream of events that breaks off is taken up again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

Resource = dict[str, Any]

_logger = logging.getLogger(__name__)

_PAGE = 200
#: A stream that says nothing for so long is dead: a comment comes every 15 seconds.
_SILENCE_SECONDS = 45.0
_RECONNECT_SECONDS = 0.5


class OnelaneClientError(Exception):
    """Base of what this client raises."""


class NotReachable(OnelaneClientError):
    """No service answered; the message says where it was looked for."""


class ApiError(OnelaneClientError):
    """The service refused. `code` is the problem document's stable word; `errors` are pairs of place and message."""

    def __init__(self, status: int, code: str, detail: str, errors: list[tuple[str, str]], request_id: str) -> None:
        lines = [f"{detail or code} ({status} {code})", *(f"  {place}: {message}" for place, message in errors)]
        super().__init__("\n".join(lines))
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id


class Connection:
    """A pool of connections with one key; close it, or use it in a `with`."""

    def __init__(self, base_url: str, key: str, *, timeout_seconds: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._stream_timeout = httpx2.Timeout(timeout_seconds, read=_SILENCE_SECONDS)
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "onelane-client"},
            timeout=timeout_seconds,
            # A proxy of the environment is for far hosts; it could not reach this machine's loopback.
            trust_env=not _is_loopback(self.base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        wait_seconds: float = 0.0,
    ) -> Any:
        """One request; gives back the answer's JSON, None for an empty answer.

        Raises:
            NotReachable: nobody answered within the time-out, which `wait_seconds` lengthens.
            ApiError: any status of 400 or more.
        """
        try:
            answer = self._http.request(
                method,
                path,
                json=json,
                params=None if params is None else given(**params),
                headers={"Idempotency-Key": idempotency_key} if idempotency_key else None,
                timeout=self._timeout_seconds + wait_seconds,
            )
        except httpx2.TransportError as error:
            raise self._not_reachable(error) from error
        if answer.status_code >= 400:
            raise _api_error(answer)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise NotReachable(f"what answers at {self.base_url} is not onelane: {path} is no JSON") from error

    def events(self, path: str) -> Iterator[str]:
        """The name of each event of a stream, from a `snapshot` on; it connects again whenever the stream ends.

        Raises:
            NotReachable: nobody answers any more. ApiError: the service refused.
        """
        while True:
            try:
                with self._http.stream("GET", path, timeout=self._stream_timeout) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        raise _api_error(answer)
                    # A snapshot is as large as its job, which the service bounds.
                    for event in httpx2.EventSource(answer, max_event_size=None):
                        yield event.event
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.SSEError) as error:
                raise self._not_reachable(error) from error
            except httpx2.TransportError as error:
                _logger.debug("The stream %s broke off, taking it up again: %s", path, error)
            time.sleep(_RECONNECT_SECONDS)  # a server that closes each stream at once must not be hammered

    def _not_reachable(self, error: Exception) -> NotReachable:
        return NotReachable(f"no onelane service answers at {self.base_url}: {str(error) or type(error).__name__}")

    def pages(self, path: str, params: Mapping[str, Any], limit: int | None) -> Iterator[Resource]:
        """The items of a list over all its pages, newest first; at most `limit`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = self.call(
                "GET", path, params={**params, "cursor": cursor, "limit": _PAGE if left is None else min(_PAGE, left)}
            )
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])


def given(**values: Any) -> dict[str, Any]:
    """Those of the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _api_error(answer: httpx2.Response) -> ApiError:
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
    return ApiError(
        answer.status_code,
        str(problem.get("code") or "unknown"),
        str(problem.get("detail") or problem.get("title") or answer.reason_phrase),
        errors,
        answer.headers.get("x-request-id", ""),
    )
