"""What the publishers' tests run against: a real Chromium, a demo blog, a WordPress."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from actors.clients import Clients
from actors.clients.browser import Browser, open_browser
from actors.clients.publishers.base import PublisherClients
from actors.testing import MemoryPort
from orchestrator.demo_blog.app import create_app
from orchestrator.demo_blog.faults import Faults
from orchestrator.settings import CHROMIUM_NAMES
from tests.actors.publishers.demo_site import DemoBlog
from tests.support.ports import make_context
from tests.support.servers import free_port
from tests.support.wordpress import WordPressSite, running_wordpress, wordpress_or_skip


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; without one the tests are skipped, and in CI they fail."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        reason = f"no browser here: none of {', '.join(CHROMIUM_NAMES)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def browser_settings(chromium: str) -> Callable[..., dict[str, Any]]:
    """The worker's answer to `client.settings` for the browser, for given allowed hosts."""
    return lambda *hosts: {"executable": chromium, "allowed_hosts": list(hosts), "headless": True}


@pytest.fixture
def browser_for(browser_settings: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """`with browser_for("host:port") as browser`."""

    def start(*hosts: str, seconds: float = 180) -> Any:
        return open_browser(browser_settings(*hosts), lambda: seconds)

    return start


@pytest.fixture(scope="module")
def module_browser(chromium: str) -> Iterator[Browser]:
    """One browser for the tests of a module: they are about sites and the ledger, and each start takes a second."""
    with open_browser({"executable": chromium, "allowed_hosts": ["127.0.0.1", "localhost"]}, lambda: 180.0) as browser:
        yield browser


@pytest.fixture
def lent_browser(module_browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """Steps are given the module's browser; its contexts end with each `with` block, as a browser's own would."""

    @contextlib.contextmanager
    def lend(clients: Clients) -> Iterator[Browser]:
        try:
            yield module_browser
        finally:
            for context in module_browser.contexts:
                context.close()

    monkeypatch.setattr(Clients, "browser", lend)
    return module_browser


@pytest.fixture
def clients(lent_browser: Browser) -> Iterator[PublisherClients]:
    """What a publisher of one attempt gets, over the module's browser."""
    with PublisherClients(make_context(MemoryPort()).clients) as made:
        yield made


@pytest.fixture(scope="session")
def demo_blog_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBlog]:
    faults = Faults()
    app = create_app(tmp_path_factory.mktemp("demo-blog"), faults=faults)
    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def startup_and_notify(*arguments: Any, **named: Any) -> None:
        await startup(*arguments, **named)
        started.set()

    server.startup = startup_and_notify  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, name="demo-blog")
    thread.start()
    assert started.wait(60), "the demo blog did not start in a minute"
    yield DemoBlog(f"http://127.0.0.1:{port}", app.state.store, faults)
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive(), "the demo blog did not stop in a minute"


@pytest.fixture
def demo_blog(demo_blog_server: DemoBlog) -> DemoBlog:
    """The demo blog without faults; users are the tests' own."""
    demo_blog_server.faults.clear()
    return demo_blog_server


@pytest.fixture(scope="session")
def wordpress() -> Iterator[WordPressSite]:
    """One WordPress for all tests; each makes users of its own."""
    wordpress_or_skip()
    with running_wordpress() as site:
        yield site


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A user name and slug that no other test has."""
    text = "".join(char if char.isalnum() else "-" for char in request.node.name.lower())
    return f"{text[5:25].strip('-')}-{abs(hash(request.node.nodeid)) % 10**8}"
