"""uvicorn's httptools protocol, with limits on what a client can use before it is authenticated.

uvicorn limits the idle time of a connection, but neither the bytes or number of header fields, nor the time in which
head and body must arrive, nor the connections of one address.

A connection is in one of four phases, each with its limit:

    HEAD    until the head is complete     `header_seconds`, `max_header_bytes`, `max_headers`; 408, 431
    BODY    until the body is complete     `body_seconds`, and a second more for each `MIN_BODY_RATE` bytes; 408
    ANSWER  while the application works    no limit: event streams and `?wait=` take long
    IDLE    between two requests           `idle_seconds`

Invariants
- A refusal never interrupts another answer: while one is in progress, the connection ends after it.
- A client that does not read its answer is disconnected after `send_seconds`.
- A connection counts for its address from accept to close, before its path is known: a health check counts too.
  Trusted proxies, which carry many clients, have no limit.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import uuid_utils
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ...metrics import REFUSED_CONNECTIONS
from .connection_limits import ConnectionCounts, ConnectionLimits, refusal
from .middleware import SECURITY_HEADERS
from .problems import Problem, problem_response

if TYPE_CHECKING:
    from ...settings import Settings

#: Bytes per second that a body must reach after `body_seconds`.
MIN_BODY_RATE = 8 * 1024
#: Bytes of a body that are discarded after its request was answered; then the connection ends.
MAX_DISCARDED_BYTES = 1024 * 1024
#: How long a refused client may still send: closing at once sends a reset, which can destroy the answer.
LINGER_SECONDS = 2.0


class Phase(Enum):
    """The phase of a connection."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    IDLE = "idle"


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    limits: ConnectionLimits
    counts: ConnectionCounts

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._phase = Phase.HEAD
        self._raw_head_bytes = self._head_bytes = self._headers_seen = 0
        self._body_bytes = self._raw_body_bytes = self._discarded_bytes = 0
        self._body_began = 0.0
        #: Requests whose answer is not complete.
        self._open_answers = 0
        self._refusal: Problem | None = None
        self._is_refused = False
        self._address: str | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    # connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else None
        refused = self.counts.add(self._address)
        if refused is None:
            self._enter(Phase.HEAD, self.limits.header_seconds)
        else:  # nothing was read, so there is nothing to wait for
            self._is_refused = True
            REFUSED_CONNECTIONS.labels("too_many").inc()
            transport.write(_answer(refused))
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.counts.remove(self._address)
        self._set_deadline(None)
        for timer in (self._timer, self._sending):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._phase is Phase.IDLE:
            self._raw_head_bytes = self._head_bytes = self._headers_seen = 0
            self._enter(Phase.HEAD, self.limits.header_seconds)
        before = self._phase
        super().data_received(data)
        if self._phase is not before:
            return
        if before is Phase.HEAD:  # the callbacks have not counted an unfinished line
            self._raw_head_bytes += len(data)
            if self._raw_head_bytes > self.limits.max_header_bytes:
                self._refuse(self._headers_too_large())
        elif before is Phase.BODY:
            self._raw_body_bytes += len(data)
            overhead = self._raw_body_bytes - self._body_bytes
            if overhead > self.limits.max_header_bytes + self._body_bytes:
                self._refuse(refusal("malformed_json", "the body's chunks have more framing than content"))

    # callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._raw_head_bytes = self._head_bytes = self._headers_seen = 0
        self._enter(Phase.HEAD, self.limits.header_seconds)

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_seen += 1
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._open_answers += 1
        self._body_bytes = self._raw_body_bytes = self._discarded_bytes = 0
        self._body_began = self.loop.time()
        self._enter(Phase.BODY, self.limits.body_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > MAX_DISCARDED_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._enter(Phase.ANSWER, None)
        super().on_message_complete()
        self._enter_idle_when_answered()

    def on_response_complete(self) -> None:
        self._open_answers -= 1
        super().on_response_complete()
        if self.transport.is_closing() or self._is_refused:
            self._close()
        else:
            self._enter_idle_when_answered()

    def send_400_response(self, msg: str) -> None:
        """Called for what the parser rejects, and for what the callbacks above refused."""
        self._refuse(self._refusal or refusal("malformed_json", "this is not an HTTP request"))

    def _unsupported_upgrade_warning(self) -> None:
        """A client that asks for another protocol gets HTTP, without a log line for each."""

    # the limits

    def _count_head(self, number: int) -> None:
        self._head_bytes += number
        if self._head_bytes > self.limits.max_header_bytes or self._headers_seen > self.limits.max_headers:
            self._refusal = self._headers_too_large()
            raise ValueError("the head is too large")  # ends the parser, which calls `send_400_response`

    def _headers_too_large(self) -> Problem:
        limits = self.limits
        return refusal(
            "headers_too_large",
            f"the head of a request may have {limits.max_header_bytes} bytes and {limits.max_headers} header fields",
        )

    def _enter(self, phase: Phase, seconds: float | None) -> None:
        self._phase = phase
        self._set_deadline(seconds)

    def _enter_idle_when_answered(self) -> None:
        """Enter IDLE once every request is answered."""
        if self._phase is Phase.ANSWER and not self._open_answers:
            self._enter(Phase.IDLE, self.limits.idle_seconds)

    def _set_deadline(self, seconds: float | None) -> None:
        """Set or clear the deadline. One timer serves many requests: it is reset only if it would fire too late."""
        self._deadline = None if seconds is None else self.loop.time() + seconds
        if self._deadline is None or (self._timer is not None and self._timer.when() <= self._deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        left = self._deadline - self.loop.time()
        if self._phase is Phase.BODY:
            earned = self._body_began + self.limits.body_seconds + self._body_bytes / MIN_BODY_RATE - self.loop.time()
            # While reading is paused, the client cannot send.
            left = max(left, earned, 1.0 if self.flow.read_paused else 0.0)
        if left > 0:
            self._set_deadline(left)
        else:
            self._expire()

    def _expire(self) -> None:
        self._deadline = None
        if self._is_refused or self._phase is Phase.IDLE or (self._phase is Phase.HEAD and not self._raw_head_bytes):
            self._close()
        elif self._phase is Phase.HEAD:
            self._refuse(refusal("request_timeout", f"the head did not come in {self.limits.header_seconds:g} s"))
        else:
            self._refuse(refusal("request_timeout", f"the body did not come in {self.limits.body_seconds:g} s"))

    # refusing

    def _refuse(self, problem: Problem) -> None:
        """Answer with the problem and end the connection; later input is discarded."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        REFUSED_CONNECTIONS.labels(problem.code).inc()
        self._set_deadline(LINGER_SECONDS)
        in_body = self._phase is Phase.BODY
        if in_body and self.cycle.response_started:
            self._close()
            return
        if in_body:  # the application waits for the rest of this body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self._open_answers:  # ends when the answer in progress does
            self.pipeline.clear()
            self._open_answers = 1
            self._set_deadline(None)
            return
        self.flow.resume_reading()
        self.transport.write(_answer(problem))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # sending

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bound_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None and not self.transport.is_closing():
            self._sending.cancel()
            self._sending = None

    def _close(self) -> None:
        """Close after the written data are sent, or after `send_seconds`."""
        self.transport.close()
        self._bound_sending()

    def _bound_sending(self) -> None:
        if self._sending is None:
            self._sending = self.loop.call_later(self.limits.send_seconds, self.transport.abort)


def protocol_class(limits: ConnectionLimits) -> type[LimitedProtocol]:
    """The protocol class of one server, which counts all its connections."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": limits, "counts": ConnectionCounts(limits)})


def server_options(settings: Settings) -> dict[str, Any]:
    """The API's options for uvicorn, besides its address."""
    return {
        "http": protocol_class(ConnectionLimits.of(settings)),
        "ws": "none",
        "timeout_keep_alive": math.ceil(settings.idle_timeout_seconds),
        **proxy_options(settings.trusted_proxies),
    }


def proxy_options(trusted_proxies: Sequence[str]) -> dict[str, Any]:
    """Whose `X-Forwarded-For` uvicorn trusts; its own default is any client on this machine."""
    networks = [str(ipaddress.ip_network(each, strict=False)) for each in trusted_proxies]
    return {"proxy_headers": bool(networks), "forwarded_allow_ips": networks}


def _answer(problem: Problem) -> bytes:
    response = problem_response(problem)
    headers = {**SECURITY_HEADERS, "X-Request-Id": str(uuid_utils.uuid7())}
    lines = [*response.raw_headers, *((name.lower().encode(), value.encode()) for name, value in headers.items())]
    head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
    return STATUS_LINE[response.status_code] + head + b"\r\n" + bytes(response.body)
