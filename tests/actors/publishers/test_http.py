"""The HTTP client of steps: judged addresses, bounded time and size, redirects judged hop by hop."""

from __future__ import annotations

import gzip
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from actors.clients.http import MAX_REDIRECTS, Http
from actors.errors import ProviderError, ProviderTimeout, UnsafeUrl
from actors.testing import MemoryPort
from tests.support.ports import make_context

Answer = Callable[[socket.socket, bytes], None]


class Site:
    """Answers each connection as `answer` says, and keeps what it was sent."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self.seen: list[bytes] = []
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="site")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(30)
                try:
                    request = _whole_request(connection)
                    self.seen.append(request)
                    self._answer(connection, request)
                except OSError:
                    continue  # the client had enough

    def close(self) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        assert not self._thread.is_alive()


def _whole_request(connection: socket.socket) -> bytes:
    """Head and body of a request, which may come in several segments."""
    request = b""
    while chunk := connection.recv(65536):
        request += chunk
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            break
    return request


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Site]]:
    made: list[Site] = []

    def start(answer: Answer) -> Site:
        made.append(Site(answer))
        return made[-1]

    yield start
    for site in made:
        site.close()


def respond(text: str) -> Answer:
    return lambda connection, request: connection.sendall(text.encode())


def redirect(location: str, status: int = 302) -> Answer:
    return respond(f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")


OK = respond('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n{"a": "\u00fc"}')


def http(*hosts: str, seconds: float = 60) -> Http:
    port = MemoryPort(settings={"http": {"allowed_hosts": list(hosts)}})
    return make_context(port, seconds=seconds).clients.http()


def test_a_request_carries_what_was_given_and_gives_back_the_whole_answer(serve: Callable[[Answer], Site]) -> None:
    site = serve(OK)
    answer = http(site.host).post(
        f"{site.url}/p?q=1", params={"s": "x y"}, json={"k": "ü"}, headers={"Authorization": "Basic eA=="}
    )
    assert (answer.status, answer.json(), answer.text()) == (200, {"a": "ü"}, '{"a": "ü"}')
    assert answer.headers["x-twice"] == "a, b"
    head, _, body = site.seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /p?q=1&s=x+y HTTP/1.1\r\n")
    assert b"authorization: Basic eA==" in head
    assert b"content-type: application/json" in head
    assert body == b'{"k": "\\u00fc"}'


def test_private_addresses_are_refused_unless_they_are_allowed(serve: Callable[[Answer], Site]) -> None:
    site = serve(OK)
    with pytest.raises(UnsafeUrl, match="ONELANE_ALLOWED_HOSTS"):
        http().get(site.url)
    with pytest.raises(UnsafeUrl):
        http(site.host).get("http://169.254.169.254/latest/")
    with pytest.raises(UnsafeUrl):
        http(site.host).get("file:///etc/passwd")
    assert site.seen == []


def test_a_redirect_is_followed_judged_and_carries_no_credentials_elsewhere(serve: Callable[[Answer], Site]) -> None:
    last = serve(OK)
    first = serve(redirect(f"{last.url}/there"))
    secret = {"Authorization": "Bearer secret", "X-Plain": "kept"}
    answer = http(first.host, last.host).get(first.url, headers=secret)
    assert answer.url == f"{last.url}/there"
    assert b"secret" in first.seen[0]
    assert b"secret" not in last.seen[0]
    assert b"x-plain: kept" in last.seen[0]
    with pytest.raises(UnsafeUrl):
        http(first.host).get(first.url)
    # What changes something is sent once, to where the caller said
    assert http(first.host, last.host).post(first.url, json={}).status == 302
    assert len(last.seen) == 1


def test_redirects_come_to_an_end(serve: Callable[[Answer], Site]) -> None:
    site = serve(redirect("/again"))
    with pytest.raises(ProviderError, match=f"more than {MAX_REDIRECTS} times"):
        http(site.host).get(site.url)
    assert len(site.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("part", ["head", "body", "nothing"])
def test_an_answer_that_trickles_or_never_comes_ends_in_time(serve: Callable[[Answer], Site], part: str) -> None:
    def trickle(connection: socket.socket, request: bytes) -> None:
        if part == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for number in itertools.count():
            if site.closing.wait(0.05):
                return
            if part != "nothing":
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: "[number : number + 1] or b"a")

    site = serve(trickle)
    with pytest.raises(ProviderTimeout):
        http(site.host).get(site.url, at_most_seconds=0.5)
    # and never later than the step itself ends
    with pytest.raises(ProviderTimeout):
        http(site.host, seconds=0.5).get(site.url)
    with pytest.raises(ProviderTimeout, match="no time left"):
        http(site.host, seconds=0).get(site.url)


def test_an_answer_that_is_too_large_is_refused(serve: Callable[[Answer], Site]) -> None:
    def endless(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not site.closing.is_set():
            connection.sendall(b"x" * 65536)

    site = serve(endless)
    with pytest.raises(ProviderError, match="more than 100000 bytes"):
        http(site.host).get(site.url, max_bytes=100_000)


def test_a_body_that_was_packed_without_being_asked_for_is_not_unpacked(serve: Callable[[Answer], Site]) -> None:
    packed = gzip.compress(b"x" * 10_000_000)

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed)

    site = serve(answer)
    assert len(http(site.host).get(site.url).content) == len(packed)
    assert b"accept-encoding: identity" in site.seen[0]


def test_what_is_no_http_and_who_is_not_there_are_provider_errors(serve: Callable[[Answer], Site]) -> None:
    site = serve(respond("hello\r\n\r\n"))
    with pytest.raises(ProviderError, match="RemoteProtocolError"):
        http(site.host).get(site.url)
    other = serve(respond("HTTP/1.1 500 Oh\r\n\r\n<html>"))
    page = http(other.host).get(other.url)
    with pytest.raises(ProviderError, match="no JSON"):
        page.json()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        host = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ProviderError, match="ConnectError"):
        http(host).get(f"http://{host}/")


@pytest.mark.parametrize("headers", [{"Host": "other.example"}, {"content-length": "0"}, {"Transfer-Encoding": "x"}])
def test_headers_that_frame_the_request_are_the_client_s_own(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="set by the client"):
        http().get("https://x.example", headers=headers)


def test_a_header_cannot_smuggle_a_second_one(serve: Callable[[Answer], Site]) -> None:
    site = serve(OK)
    with pytest.raises(ProviderError, match="LocalProtocolError"):
        http(site.host).get(site.url, headers={"X-A": "1\r\nX-B: 2"})
    assert b"X-B" not in b"".join(site.seen)
