"""What a webhook's call reaches: judged addresses alone, no redirects, no endless answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actors.clients import callbacks
from actors.context import StepContext
from actors.errors import CallbackFailed, UnsafeUrl
from actors.pipelines.webhook import Delivery, deliver
from actors.port import Callback, JobInfo
from actors.signals import Reject


class Server:
    """Answers each connection with the same bytes, and counts them."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.seen: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                self.seen.append(connection.recv(65536))
                try:
                    self._answer(connection)
                except OSError:
                    continue  # the caller had read enough

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(answer: Callable[[socket.socket], None]) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for server in made:
        server.close()


def text(answer: str) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(answer.encode())


CALL = {"url": "http://receiver.example/", "headers": {}, "body": "{}", "allowed_hosts": []}
OK = text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def call(url: str, *allowed: str) -> Callback:
    return Callback(url, {"webhook-id": "one"}, '{"a":"ü"}', allowed)


def test_a_call_carries_the_body_as_it_was_signed(serve: Callable[..., Server]) -> None:
    server = serve(OK)
    assert callbacks.post(call(f"http://127.0.0.1:{server.port}/hook?x=1", f"127.0.0.1:{server.port}")) == 200
    (request,) = server.seen
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert b"webhook-id: one" in head
    assert body in ('{"a":"ü"}'.encode(), b""), "in one packet or two"


def test_a_url_in_any_script_is_called(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(OK)
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *more, **named: here)
    assert callbacks.post(call(f"http://bücher.example:{server.port}/ü?ä=1#part", "127.0.0.1")) == 200
    assert server.seen[0].startswith(b"POST /%C3%BC?%C3%A4=1 HTTP/1.1\r\n")
    assert b"xn--bcher-kva.example" in server.seen[0]


def test_a_redirect_is_reported_and_not_followed(serve: Callable[..., Server]) -> None:
    inner = serve(OK)
    server = serve(text(f"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:{inner.port}/\r\nContent-Length: 0\r\n\r\n"))
    assert callbacks.post(call(f"http://127.0.0.1:{server.port}/", "127.0.0.1")) == 307
    assert inner.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest/meta-data",
        "http://user:pw@93.184.216.34/",
        "file:///etc/passwd",
        "gopher://93.184.216.34/",
    ],
)
def test_what_is_not_public_is_not_called(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        callbacks.post(call(url))


def test_an_allowed_host_is_allowed_on_its_port_alone(serve: Callable[..., Server]) -> None:
    server = serve(OK)
    with pytest.raises(UnsafeUrl):
        callbacks.post(call(f"http://127.0.0.1:{server.port}/", "127.0.0.1:1"))
    assert server.seen == []


def test_a_name_that_changes_its_mind_is_called_where_it_was_judged(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look at the name says the allowed server, every later one says another: nobody looks again."""
    server, other = serve(OK), serve(OK)
    answers = iter([("127.0.0.1", server.port)])
    real = socket.getaddrinfo

    def changing(host: str | bytes | None, port: str | int | None, *more: object, **named: object) -> object:
        if host == "rebinding.example":
            where = next(answers, ("127.0.0.1", other.port))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where)]
        return real(host, port, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    url = f"http://rebinding.example:{server.port}/"
    assert callbacks.post(call(url, f"rebinding.example:{server.port}")) == 200
    assert b"rebinding.example" in server.seen[0], "the Host header still names it"
    assert next(answers, None) is None
    assert other.seen == []


def test_an_endless_answer_is_not_read_to_its_end(serve: Callable[..., Server]) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    server = serve(endless)
    assert callbacks.post(call(f"http://127.0.0.1:{server.port}/", "127.0.0.1")) == 200


@pytest.mark.parametrize("answer", ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Len"])
def test_what_is_no_answer_is_a_failure_that_is_tried_again(serve: Callable[..., Server], answer: str) -> None:
    server = serve(text(answer))
    with pytest.raises(CallbackFailed) as failure:
        callbacks.post(call(f"http://127.0.0.1:{server.port}/", "127.0.0.1"))
    assert not failure.value.permanent


def test_nobody_there_is_a_failure_that_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CallbackFailed):
        callbacks.post(call(f"http://127.0.0.1:{port}/", "127.0.0.1"))


def test_a_receiver_is_tried_for_about_a_day() -> None:
    least, greatest = deliver.backoff
    longest = sum(min(greatest, least * 2**number) for number in range(deliver.max_attempts - 1))
    hours = longest * 0.75 / 3600  # each delay is drawn from the upper half
    assert 20 < hours < 30
    assert least <= 5, "the first tries come soon: most receivers are only being restarted"


@pytest.mark.parametrize(("status", "outcome"), [(200, "taken"), (204, "taken"), (302, "again"), (500, "again")])
def test_what_an_answer_means(monkeypatch: pytest.MonkeyPatch, status: int, outcome: str) -> None:
    port = Port()
    monkeypatch.setattr(callbacks, "post", lambda call: status)
    if outcome == "taken":
        assert deliver(context(port)) == {"status_code": status}
    else:
        with pytest.raises(CallbackFailed):
            deliver(context(port))
    assert port.answered == [status]


def test_who_wants_no_more_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "post", lambda call: 410)
    with pytest.raises(Reject) as signal:
        deliver(context(Port()))
    assert signal.value.code == "callback_failed"


def test_nothing_is_called_when_there_is_nothing_to_report() -> None:
    assert deliver(context(Port(call=None))) == {"superseded": True}


class Port:
    """The worker's side of the step, in this process."""

    def __init__(self, call: dict[str, Any] | None = CALL) -> None:
        self._call = call
        self.answered: list[int] = []

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        if name == "callback.load":
            return self._call
        assert name == "callback.answered"
        self.answered.append(payload["status_code"])
        return None

    def send(self, name: str, payload: dict[str, Any]) -> None:
        raise AssertionError(f"a delivery sent {name}")


def context(port: Port) -> StepContext[Delivery]:
    return StepContext(
        account="acme",
        job=JobInfo("delivery", "webhook", datetime.now(UTC), ()),
        input=Delivery(job="job", status="completed"),
        outputs={},
        attempt=1,
        deadline=datetime.now(UTC) + timedelta(seconds=10),
        port=port,
    )
