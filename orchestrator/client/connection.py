"""One connection pool to one service: a request, the pages of a list, a stream of events.

Invariants
- A request is repeated only if that is safe: a GET, or a POST with an idempotency key, which the client adds to every
  call that creates something. A stream of events that breaks off is resumed.
- An account's name is percent-encoded, so `a/b` and `a:b` stay one segment.
"""

from __future__ import annotations

import json as json_text
import logging
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import quote, urlsplit

import httpx2

from .errors import ApiError, NotReachable, api_error

_logger = logging.getLogger(__name__)

PAGE = 200
#: A stream without data for so long is dead: a comment is sent every 15 seconds.
_SILENCE_SECONDS = 45.0
_RECONNECT_SECONDS = 0.5
#: How long a stream may be interrupted before the reader gets an error; a restart of a control plane takes less.
_AWAY_SECONDS = 60.0
#: The pause before the first repeat, which doubles, and the longest one. A longer `Retry-After` is left to the caller.
PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 10.0
#: Codes of temporary failures.
_TEMPORARY = frozenset({"unavailable", "idempotency_in_progress", "rate_limited", "unknown"})


class Event(NamedTuple):
    """One event of a stream: id, type and data."""

    id: str
    type: str
    data: dict[str, Any]


class Connection:
    """A pool of connections with one key; close it, or use it in a `with`."""

    def __init__(self, base_url: str, key: str, *, timeout_seconds: float = 30.0, retries: int = 2) -> None:
        """Set up the client; it sends nothing yet.

        Args:
            base_url: the service's address, such as `http://127.0.0.1:8700`.
            key: an admin key or an account's key.
            timeout_seconds: the time-out of one attempt.
            retries: how often a safe request is repeated if no service answers or a part of it is down.
        """
        self.base_url = base_url.rstrip("/")
        self._retries = retries
        self._timeout_seconds = timeout_seconds
        self._stream_timeout = httpx2.Timeout(timeout_seconds, read=_SILENCE_SECONDS)
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "onelane-client"},
            timeout=timeout_seconds,
            # Without TLS there is nothing to verify, and loading the certificates takes long.
            verify=self.base_url.startswith("https://"),
            # A proxy from the environment could not reach this machine's loopback.
            trust_env=not _is_loopback(self.base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        creates: bool = False,
        idempotency_key: str | None = None,
        wait_seconds: float = 0.0,
    ) -> Any:
        """Send one call; returns the answer's JSON, None for an empty answer.

        Args:
            method: the HTTP method.
            path: the path, percent-encoded.
            json: the body.
            params: the query; those that are None are left out.
            headers: more headers.
            creates: the call takes an idempotency key; without a given one, the client makes one.
            idempotency_key: the caller's own key.
            wait_seconds: how much longer than the time-out the service may take.

        Raises:
            NotReachable: no service answered within the time-out.
            ApiError: any status of 400 or more.
        """
        given_headers = dict(headers or {})
        if creates or idempotency_key is not None:
            given_headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        repeatable = method == "GET" or "Idempotency-Key" in given_headers
        answer = self._send(
            method,
            path,
            retries=self._retries if repeatable else 0,
            json=json,
            params=None if params is None else given(**params),
            headers=given_headers or None,
            timeout=self._timeout_seconds + wait_seconds,
        )
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise NotReachable(f"what answers at {self.base_url} is not onelane: {path} is no JSON") from error

    def download(self, path: str) -> bytes:
        """The content at a path from the service, such as an artifact's `url`.

        Raises:
            NotReachable, ApiError: as `call`.
        """
        return self._send("GET", path, retries=self._retries).content

    def _send(self, method: str, path: str, *, retries: int, **more: Any) -> httpx2.Response:
        for number in range(retries + 1):
            wait: float | None = None
            try:
                answer = self._http.request(method, path, **more)
            except httpx2.TransportError as error:
                failure: NotReachable | ApiError = self._not_reachable(error)
            else:
                if answer.status_code < 400:
                    return answer
                failure = api_error(answer)
                wait = failure.retry_after
                if failure.code not in _TEMPORARY or (failure.code == "unknown" and failure.status < 502):
                    raise failure
            pause = PAUSE_SECONDS * 2**number * random.uniform(0.5, 1.0)
            if number == retries or (wait is not None and wait > _LONGEST_PAUSE_SECONDS):
                raise failure
            time.sleep(min(_LONGEST_PAUSE_SECONDS, max(pause, wait or 0.0)))
        raise AssertionError("unreachable: the last try returns or raises")

    def events(self, path: str, *, from_start: bool = False, follow: bool = True) -> Iterator[Event]:
        """The events of a stream; it reconnects whenever the stream ends.

        Args:
            path: the stream's path.
            from_start: begin with the first stored event, without a `snapshot`.
            follow: wait for new events; else end after the stored ones.

        Raises:
            NotReachable: no service answers. ApiError: the service refused.
        """
        last, connected, away_since = "0" if from_start else "", False, 0.0
        params = None if follow else {"follow": "false"}
        while True:
            headers = {"Last-Event-ID": last} if last else None
            try:
                with self._http.stream(
                    "GET", path, params=params, headers=headers, timeout=self._stream_timeout
                ) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        raise api_error(answer)
                    connected, away_since = True, 0.0
                    # A snapshot is as large as its job, which the service limits.
                    for event in httpx2.EventSource(answer, max_event_size=None):
                        last = event.id or last
                        yield Event(last, event.event, cast("dict[str, Any]", event.json()))
                    if not follow:
                        return
            except httpx2.SSEError as error:
                raise self._not_reachable(error) from error
            except httpx2.TransportError as error:
                away_since = away_since or time.monotonic()
                if not connected or time.monotonic() - away_since > _AWAY_SECONDS:
                    raise self._not_reachable(error) from error
                _logger.debug("The stream %s broke off, resuming it: %s", path, error)
            time.sleep(_RECONNECT_SECONDS)  # do not reconnect in a tight loop

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """The lines of a stream of JSON lines; it is not resumed.

        Raises:
            NotReachable: no service answers, or the stream breaks off. ApiError: the service refused.
        """
        try:
            with self._http.stream("GET", path, timeout=self._stream_timeout) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise api_error(answer)
                # Split at line feeds alone: `iter_lines` also splits at U+2028 and the like.
                yield from map(json_text.loads, _by_line_feed(answer.iter_bytes()))
        except (httpx2.TransportError, ValueError) as error:
            raise self._not_reachable(error) from error

    def _not_reachable(self, error: Exception) -> NotReachable:
        return NotReachable(f"no onelane service answers at {self.base_url}: {str(error) or type(error).__name__}")

    def pages(self, path: str, params: Mapping[str, Any], limit: int | None) -> Iterator[Any]:
        """The items of all pages of a list, newest first; at most `limit`, None for all."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = self.call(
                "GET", path, params={**params, "cursor": cursor, "limit": PAGE if left is None else min(PAGE, left)}
            )
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])


class Api:
    """Base of the resources; they share the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _by_line_feed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    begun: list[bytes] = []
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield b"".join((*begun, piece))
            begun = []
        begun.append(rest)
    if any(begun):
        yield b"".join(begun)


def segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
