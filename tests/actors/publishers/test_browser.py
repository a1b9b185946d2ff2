"""A browser reaches what it may and nothing else, whatever a page tries, and it always ends."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from playwright.sync_api import Error as PlaywrightError

from actors.clients import safe_url
from actors.clients.browser import open_browser, page_errors
from actors.clients.egress import EgressProxy
from actors.errors import ProviderError, ProviderTimeout, UnsafeUrl
from tests.actors.publishers.demo_site import browser_processes, kill_browsers

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


class Server(http.server.ThreadingHTTPServer):
    """Serves what `pages` says and keeps the paths that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, tuple[int, dict[str, str], str]] = {}
        self.hits: list[str] = []
        self.release = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.hits.append(self.path)
        if self.path == "/hang":
            self.server.release.wait(30)
            return
        status, headers, body = self.server.pages.get(self.path, (404, {}, "nothing"))
        self.send_response(status)
        for key, value in {"Content-Type": "text/html", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that may be reached, and one that may not."""
    pair = Server(), Server()
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in pair]
    for thread in threads:
        thread.start()
    yield pair
    for server, thread in zip(pair, threads, strict=True):
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_page_reaches_a_host_that_is_not_allowed(
    servers: tuple[Server, Server], browser_for: Callable[..., Any]
) -> None:
    # Given a page that tries all ways out of the browser that a page has
    allowed, forbidden = servers
    target, socket = forbidden.url, f"ws://{forbidden.host}"
    allowed.pages["/"] = (
        200,
        {},
        f"""<img src="{target}/img"><iframe src="{target}/frame"></iframe><link rel=stylesheet href="{target}/css">
        <link rel=prefetch href="{target}/prefetch"><link rel=preconnect href="{target}"><script src="{target}/js">
        </script><form id=f action="{target}/form" target=other method=post></form>
        <a id=a ping="{target}/ping" href="#"></a><script>
        Promise.allSettled([
            fetch("{target}/fetch", {{mode: "no-cors"}}),
            fetch("/redirect"),
            new Promise((done) => {{ const s = new WebSocket("{socket}/ws"); s.onerror = s.onopen = done; }}),
            new Promise((done) => {{ const s = new EventSource("{target}/sse"); s.onerror = s.onopen = done; }}),
            new Promise((done) => {{
                const w = new Worker(URL.createObjectURL(new Blob(
                    ["fetch('{target}/worker',{{mode:'no-cors'}}).finally(() => postMessage(1))"])));
                w.onmessage = done;
            }}),
        ]).then(() => {{ document.title = "tried"; }});
        navigator.sendBeacon("{target}/beacon"); document.getElementById("f").submit();
        document.getElementById("a").click(); window.open("{target}/popup");
        </script>""",
    )
    allowed.pages["/redirect"] = (302, {"Location": f"{target}/redirected"}, "")
    # When it is opened
    with browser_for(allowed.host) as browser:
        page = browser.context().new_page()
        browser.goto(page, allowed.url + "/")
        page.wait_for_function("document.title === 'tried'", timeout=60_000)
        # Then nothing got through, and it shows; of some attempts the page itself never learns the end
        until = time.monotonic() + 60
        while len(browser.refusals) < 8 and time.monotonic() < until:
            page.wait_for_timeout(50)
        assert len(browser.refusals) >= 8
    assert forbidden.hits == []
    assert "/redirect" in allowed.hits


def test_a_navigation_that_ends_at_a_forbidden_host_is_refused(
    servers: tuple[Server, Server], browser_for: Callable[..., Any]
) -> None:
    allowed, forbidden = servers
    allowed.pages["/away"] = (302, {"Location": f"{forbidden.url}/secret"}, "")
    with browser_for(allowed.host) as browser:
        page = browser.context().new_page()
        with pytest.raises(UnsafeUrl, match="not a public address"):
            browser.goto(page, allowed.url + "/away")
        with pytest.raises(UnsafeUrl, match="not a public address"):
            browser.goto(browser.context().new_page(), f"https://{forbidden.host}/")
    assert forbidden.hits == []


def test_a_name_that_changes_its_address_gains_nothing(
    servers: tuple[Server, Server], browser_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a name that is public when it is looked at for the first time, and private from then on
    _, forbidden = servers
    answers = iter([["192.0.2.1"], ["93.184.216.34"]])
    monkeypatch.setattr(safe_url, "resolve_host", lambda name, port: next(answers, ["127.0.0.1"]))
    with browser_for() as browser:
        page = browser.context().new_page()
        for _ in range(2):
            with pytest.raises((ProviderError, UnsafeUrl)):
                browser.goto(page, f"http://rebind.example:{forbidden.server_port}/", at_most_seconds=8)
        with pytest.raises(UnsafeUrl):
            browser.goto(browser.context().new_page(), f"http://rebind.example:{forbidden.server_port}/again")
    assert forbidden.hits == []


def test_statuses_come_through_and_failures_are_named(
    servers: tuple[Server, Server], browser_for: Callable[..., Any]
) -> None:
    allowed, _ = servers
    allowed.pages["/ok"] = (200, {}, "<title>ok</title>")
    with browser_for(allowed.host, "127.0.0.1:1025") as browser:
        page = browser.context().new_page()
        assert browser.goto(page, allowed.url + "/ok").status == 200
        assert browser.goto(page, allowed.url + "/missing").status == 404
        with pytest.raises(ProviderTimeout, match=r"within 0\.5 s"):
            browser.goto(page, allowed.url + "/hang", at_most_seconds=0.5)
        page = browser.context().new_page()
        with pytest.raises(ProviderError, match="cannot be reached"):
            browser.goto(page, "http://127.0.0.1:1025/")
        with pytest.raises(ProviderTimeout, match="waiting"), page_errors("waiting for what never comes"):
            page.wait_for_selector("#never", timeout=50)


def test_cookies_come_from_the_state_and_scripts_can_be_off(
    servers: tuple[Server, Server], browser_for: Callable[..., Any]
) -> None:
    allowed, _ = servers
    allowed.pages["/"] = (200, {"Set-Cookie": "who=acme"}, "<script>document.title=document.cookie</script>")
    with browser_for(allowed.host) as browser:
        first = browser.context().new_page()
        browser.goto(first, allowed.url + "/")
        state = first.context.storage_state()
        page = browser.context(state).new_page()
        browser.goto(page, allowed.url + "/")
        assert page.title() == "who=acme"
        silent = browser.context(state, javascript=False).new_page()
        browser.goto(silent, allowed.url + "/")
        assert silent.title() == ""
        evidence = browser.evidence()
        assert evidence is not None
        assert evidence.startswith(b"\x89PNG")


def test_a_frozen_browser_ends_in_seconds_and_leaves_no_process(browser_for: Callable[..., Any]) -> None:
    # Given a browser all of whose processes stand still
    before = set(psutil.Process().children(recursive=True))
    with browser_for() as browser:
        browser.context().new_page()
        mine = set(psutil.Process().children(recursive=True)) - before
        browsers = [process for process in browser_processes() if process in mine]
        assert browsers
        for process in browsers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        left = time.monotonic()
    # Then closing it takes nothing like the 30 seconds that Playwright would wait
    assert time.monotonic() - left < 20
    _, alive = psutil.wait_procs(mine, timeout=60)
    assert alive == []


def test_a_killed_browser_is_an_ordinary_error(browser_for: Callable[..., Any]) -> None:
    with browser_for() as browser:
        page = browser.context().new_page()
        kill_browsers()
        with pytest.raises(ProviderError), page_errors("looking at the page"):
            page.wait_for_selector("#never", timeout=60_000)
        assert browser.evidence() is None


def test_a_browser_that_does_not_start_says_why() -> None:
    settings = {"executable": "/nonexistent/chromium", "allowed_hosts": []}
    with pytest.raises(ProviderError, match="does not start"), open_browser(settings, lambda: 10):
        raise AssertionError("it started")


def test_a_driver_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", "/bin/false")

    def start() -> str:
        try:
            with open_browser({"executable": None, "allowed_hosts": []}, lambda: 10):
                return "it started"
        except ProviderError as error:
            return str(error)

    # In a thread of its own: what Playwright leaves behind there then is nobody's.
    with ThreadPoolExecutor(1) as thread:
        assert "driver does not start" in thread.submit(start).result(120)


def test_waiting_is_never_longer_than_the_step(browser_for: Callable[..., Any]) -> None:
    with browser_for(seconds=12) as browser:
        assert browser.timeout_ms() == 12_000
        assert browser.timeout_ms(3) == 3_000


def test_the_proxy_takes_no_nonsense(servers: tuple[Server, Server]) -> None:
    import socket

    allowed, forbidden = servers
    allowed.pages["/"] = (200, {}, "here")
    requests = {
        b"GET / HTTP/1.1\r\nHost: " + allowed.host.encode() + b"\r\n\r\n": b" 403 ",
        b"NONSENSE\r\n\r\n": b" 400 ",
        b"CONNECT nowhere HTTP/1.1\r\n\r\n": b" 400 ",
        b"CONNECT " + forbidden.host.encode() + b" HTTP/1.1\r\n\r\n": b" 403 ",
        b"GET http://"
        + allowed.host.encode()
        + b"/ HTTP/1.1\r\nHost: "
        + forbidden.host.encode()
        + b"\r\n\r\n": b" 200 ",
    }
    with EgressProxy([allowed.host]) as proxy:
        for request, expected in requests.items():
            with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=60) as client:
                client.sendall(request)
                assert expected in client.recv(4096), request
    assert forbidden.hits == []


def test_playwright_errors_do_not_leave_the_clients() -> None:
    with pytest.raises(ProviderError, match=r"^writing: no such page$"), page_errors("writing"):
        raise PlaywrightError("no such page\nCall log: …")
