"""Connections within limits, over real sockets: what can be used up before anybody is known.

Every wait ends with something that the server does: an answer or the end of the connection.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from orchestrator.web.http import http_protocol
from orchestrator.web.http.connection_limits import ConnectionCounts, ConnectionLimits
from orchestrator.web.http.http_protocol import proxy_options
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, Bench
from tests.orchestrator.web.serving import serving

Address = tuple[str, int]
AUTH = f"Authorization: Bearer {ADMIN_KEY}\r\n".encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/accounts/a/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + AUTH
BODY = json.dumps(JOB).encode()


@pytest.fixture
def serve(settings_of: Callable[..., Settings], migrated_url: str) -> Iterator[Callable[..., Address]]:
    """Starts a server with the limits that a test wants."""
    with contextlib.ExitStack() as stack:

        def start(**limits: object) -> Address:
            runtime = Runtime(settings_of(migrated_url, **limits))
            stack.callback(runtime.close)
            listener = socket.create_server(("127.0.0.1", 0))
            stack.enter_context(serving(runtime, listener))
            address: Address = listener.getsockname()
            return address

        yield start


@contextlib.contextmanager
def connected(address: Address, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=60, source_address=(host, 0)) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def answer(connection: socket.socket) -> bytes:
    """One whole answer."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        if end:
            length = next(
                int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")
            )
            if len(body) >= length:
                return received
        chunk = connection.recv(65_536)
        assert chunk, f"the connection ended within the answer {received!r}"
        received += chunk


def is_healthy(address: Address) -> bool:
    with connected(address) as other:
        other.sendall(HEALTH)
        return answer(other).startswith(b"HTTP/1.1 200 ")


def check_problem(received: bytes, status: int, code: str) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received[:300]
    assert b"content-type: application/problem+json" in head.lower()
    assert b"x-request-id: " in head.lower()
    assert b"connection: close" in head.lower()
    assert json.loads(body)["code"] == code


def test_a_head_that_does_not_end_is_refused_early(serve: Callable[..., Address]) -> None:
    """47 MiB of it were swallowed, and nobody else was answered for five seconds."""
    address = serve()
    with connected(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ")
        sent, piece, received = 0, b"a" * 65_536, b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 47 * 1024 * 1024:
                connection.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    if received := connection.recv(65_536):
                        break
                connection.settimeout(60)
                connection.sendall(piece)
                sent += len(piece)
        assert sent < 4 * 1024 * 1024
        assert is_healthy(address)
        check_problem(received, 431, "headers_too_large")
    assert is_healthy(address)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /healthz?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X" * 40_000 + b": a\r\n\r\n",
        b"\r\n" * 40_000,
        b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: %s\r\n" % (b"a" * 300) * 200,
    ],
    ids=["one field", "many fields", "path", "name", "empty lines", "trailers"],
)
def test_heads_of_every_kind_are_bounded(serve: Callable[..., Address], head: bytes) -> None:
    with connected(serve()) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head)
        received = rest(connection)
        assert b" 431 " in received or received.startswith(b"HTTP/1.1 401 "), received[:300]


def test_a_large_head_within_the_limits_is_served_in_whatever_pieces(serve: Callable[..., Address]) -> None:
    address = serve()
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 300) for n in range(90))
    with connected(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for begin in range(0, len(head), 997):
                connection.sendall(head[begin : begin + 997])
            connection.sendall(b"\r\n")
            assert answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_silent_and_half_sent_connections_end(serve: Callable[..., Address], sent: bytes) -> None:
    with connected(serve(header_timeout_seconds=0.3)) as connection:
        connection.sendall(sent)
        received = rest(connection)
    if sent:
        check_problem(received, 408, "request_timeout")
    else:
        assert received == b"", "nothing was asked, so nothing is answered"


def test_a_byte_now_and_then_does_not_keep_a_head_alive(serve: Callable[..., Address]) -> None:
    with connected(serve(header_timeout_seconds=0.5)) as connection:
        received = b""
        connection.settimeout(0.05)
        for byte in b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"a" * 1000:
            connection.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                received = connection.recv(65_536)
                break
        check_problem(received, 408, "request_timeout")


def test_a_body_that_does_not_come_is_408(serve: Callable[..., Address]) -> None:
    address = serve(body_timeout_seconds=0.3)
    with connected(address) as connection:
        connection.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        check_problem(rest(connection), 408, "request_timeout")
    with connected(address) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{")
        check_problem(rest(connection), 408, "request_timeout")
    with connected(address) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert answer(connection).startswith(b"HTTP/1.1 202 ")


def test_a_large_body_has_the_time_that_its_bytes_earn(
    serve: Callable[..., Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "MIN_BODY_RATE", 10)
    body = json.dumps({**JOB, "input": {"topic": "x" * 2000}}).encode()
    with connected(serve(body_timeout_seconds=0.3)) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body[:1000])
        connection.settimeout(0.8)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(60)
        connection.sendall(body[1000:])
        assert answer(connection).startswith(b"HTTP/1.1 202 ")


def test_a_body_of_a_refused_call_is_not_read_for_ever(serve: Callable[..., Address]) -> None:
    with connected(serve()) as connection:
        connection.sendall(b"POST /v1/accounts/a/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 401 ")
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * 1024 * 1024:
                connection.sendall(b"x" * 65_536)
                sent += 65_536
        assert sent < 64 * 1024 * 1024


def test_chunks_that_are_mostly_frame_are_refused(serve: Callable[..., Address]) -> None:
    with connected(serve()) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(60):
                connection.sendall(b"1;%s\r\nx\r\n" % (b"e" * 8000))
        check_problem(rest(connection), 400, "malformed_json")


def test_an_idle_connection_ends_and_one_in_use_does_not(serve: Callable[..., Address]) -> None:
    with connected(serve(idle_timeout_seconds=0.4)) as connection:
        for _ in range(3):
            connection.sendall(HEALTH)
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
        assert rest(connection) == b""


def test_what_is_not_http_is_400(serve: Callable[..., Address]) -> None:
    with connected(serve()) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        check_problem(rest(connection), 400, "malformed_json")


def test_a_refusal_comes_after_the_answer_before_it(serve: Callable[..., Address], bench: Bench) -> None:
    """A second request that is too large does not come between the parts of the first one's answer."""
    address = serve()
    with connected(address) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        job = json.loads(answer(connection).partition(b"\r\n\r\n")[2])
        wait = b"GET /v1/jobs/%s?wait=0.5 HTTP/1.1\r\nHost: x\r\n%s\r\n" % (job["id"].encode(), AUTH)
        connection.sendall(wait + b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 40_000)
        received = rest(connection)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 200 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["id"] == job["id"]


def test_streams_and_waits_are_not_cut_off(serve: Callable[..., Address], bench: Bench) -> None:
    """They last many times as long as head, body and idle connections may."""
    limits = {"header_timeout_seconds": 0.2, "body_timeout_seconds": 0.2, "idle_timeout_seconds": 0.2}
    address = serve(**limits)
    with connected(address) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        job = json.loads(answer(connection).partition(b"\r\n\r\n")[2])
    path = b"/v1/jobs/%s" % job["id"].encode()
    with connected(address) as stream, connected(address) as waiting:
        stream.sendall(b"GET %s/events HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, AUTH))
        begun = time.monotonic()
        waiting.sendall(b"GET %s?wait=1.2 HTTP/1.1\r\nHost: x\r\n%s\r\n" % (path, AUTH))
        received = answer(waiting)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - begun >= 1.2, "it waited for as long as it was asked to"
        bench.fail(bench.start(job))
        assert b"event: end" in rest_until(stream, b"event: end")


def rest_until(connection: socket.socket, words: bytes) -> bytes:
    received = b""
    while words not in received:
        chunk = connection.recv(65_536)
        assert chunk, f"the stream ended without {words!r}: {received!r}"
        received += chunk
    return received


def test_a_client_that_does_not_read_is_dropped(serve: Callable[..., Address]) -> None:
    address = serve(send_timeout_seconds=0.3)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(address)
        asks = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # else the socket's own time-out ends it
            while True:
                connection.sendall(asks)


def test_too_many_connections_of_one_address_are_refused_and_others_served(serve: Callable[..., Address]) -> None:
    address = serve(max_connections_per_address=3)
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(connected(address)) for _ in range(3)]
        for connection in first:  # each is accepted for certain once it was answered
            connection.sendall(HEALTH)
            assert answer(connection).startswith(b"HTTP/1.1 200 ")
        received = rest(stack.enter_context(connected(address)))
        check_problem(received, 429, "rate_limited")
        assert b"retry-after: 1\r\n" in received.lower()
        other = stack.enter_context(connected(address, "127.0.0.2"))
        other.sendall(HEALTH)
        assert answer(other).startswith(b"HTTP/1.1 200 ")
        first[0].sendall(HEALTH.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
        assert rest(first[0]).startswith(b"HTTP/1.1 200 ")
        again = stack.enter_context(connected(address))
        again.sendall(HEALTH)
        assert answer(again).startswith(b"HTTP/1.1 200 ")


def counts(**limits: object) -> ConnectionCounts:
    standard = ConnectionLimits.of(Settings.load())
    return ConnectionCounts(ConnectionLimits(**{**standard.__dict__, **limits}))


def test_connections_are_counted_by_customer_and_not_for_proxies() -> None:
    counted = counts(per_address=2, total=8, trusted_proxies=("10.0.0.1/8",))
    assert [counted.add("2001:db8::1") is None, counted.add("2001:db8::2") is None] == [True, True]
    refusal = counted.add("2001:db8::3")
    assert refusal is not None
    assert refusal.code == "rate_limited"
    counted.remove("2001:db8::3")
    assert [counted.add("10.1.2.3") for _ in range(5)] == [None] * 5
    assert counted.add("192.0.2.1") is None
    refusal = counted.add("192.0.2.2")
    assert refusal is not None
    assert refusal.code == "unavailable", "the files of the process are not used up"
    unlimited = counts(per_address=0, total=0)
    assert [unlimited.add("192.0.2.1") for _ in range(500)] == [None] * 500


def test_a_network_is_trusted_however_it_is_written() -> None:
    assert proxy_options(["10.1.2.3/8"])["forwarded_allow_ips"] == ["10.0.0.0/8"]
