"""A model of a site that posts land on, with a clock, and attempts to publish there that may die at any moment.

A crash is a `BaseException` that nothing in a step may catch; it ends the attempt as kill -9 does. Every attempt goes
through `publish_draft`, as the worker's do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from actors import publishing
from actors.clients import Clients
from actors.clients.publishers.base import Post, PublicPost, PublisherClients
from actors.errors import LoginRequired, ProviderError, StepError
from actors.port import Draft, SessionState, Target
from actors.publishing import publish_draft
from actors.signals import Retry, Snooze
from actors.testing import MemoryPort
from tests.support.ports import make_context

DRAFT = {
    "id": "draft-1",
    "title": "Lanes",
    "body": "Each *account* has its own.",
    "tags": ["a"],
    "status": "pending_publish",
    "version": 1,
}
STATE = {"cookies": [{"name": "s", "httpOnly": True, "expires": 4_000_000_000}], "origins": []}


class Crash(BaseException):
    """The end of the process."""


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Bombs:
    """Counts the moments of a run and raises at those that were chosen."""

    at: dict[int, Callable[[], BaseException]] = field(default_factory=dict)
    passed: int = 0

    def tick(self) -> None:
        self.passed += 1
        if self.passed in self.at:
            make = self.at[self.passed]
            raise make()


@dataclass
class Site:
    """Where posts land. `late` seconds after a request that was cut off, its post appears all the same."""

    clock: Clock
    bombs: Bombs = field(default_factory=Bombs)
    late: float = 0.0
    reliable: bool = True
    text: str | None = None
    session_is_alive: bool = True
    posts: list[tuple[float, str, Draft]] = field(default_factory=list)
    reads_to_fail: int = 0
    before_publish: list[BaseException] = field(default_factory=list)
    after_submit: list[BaseException] = field(default_factory=list)

    def visible(self, marker: str) -> list[Draft]:
        return [draft for due, found, draft in self.posts if found == marker and due <= self.clock()]


class ModelPublisher:
    name: ClassVar[str] = "model"

    def __init__(self, site: Site) -> None:
        self.site = site
        self.settle_seconds = 5.0
        self.find_is_reliable = site.reliable

    def ensure_session(self, session: SessionState) -> SessionState | None:
        self.site.bombs.tick()
        if self.site.session_is_alive:
            return None
        if session.credentials is None:
            raise LoginRequired("no credentials")
        self.site.session_is_alive = True
        return SessionState(STATE, session.credentials)

    def find(self, marker: str) -> Post | None:
        self.site.bombs.tick()
        return Post("https://site.example/" + marker, "1") if self.site.visible(marker) else None

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        self.site.bombs.tick()
        if self.site.before_publish:
            raise self.site.before_publish.pop(0)
        before_submit()
        self.site.bombs.tick()
        self.site.posts.append((self.site.clock() + self.site.late, marker, draft))
        self.site.bombs.tick()
        if self.site.after_submit:
            raise self.site.after_submit.pop(0)
        self.site.clock.sleep(self.site.late)
        return Post("https://site.example/" + marker, "1")

    def read_back(self, url: str) -> PublicPost:
        self.site.bombs.tick()
        if self.site.reads_to_fail:
            self.site.reads_to_fail -= 1
            raise ProviderError("503")
        draft = self.site.visible(url.rpartition("/")[2])[0]
        return PublicPost(draft.title, self.site.text or "Home. Each account has its own! Share this.")


class TickingPort(MemoryPort):
    """Every call has a moment before it takes effect and one after."""

    bombs: Bombs

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        self.bombs.tick()
        answer = super().call(name, payload)
        self.bombs.tick()
        return answer


class NoBrowser:
    def evidence(self) -> bytes | None:
        return b"PNG"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(clock)

    def open_model(target: Target, clients: PublisherClients) -> ModelPublisher:
        assert clients.browser is not None, "a failure's evidence is a picture of the browser"
        return ModelPublisher(made)

    monkeypatch.setattr(publishing, "open_publisher", open_model)

    @contextlib.contextmanager
    def no_browser(self: Clients) -> Iterator[NoBrowser]:
        yield NoBrowser()

    monkeypatch.setattr(Clients, "browser", no_browser)
    return made


def port_to(site: Site) -> TickingPort:
    port = TickingPort(
        target={"publisher": "model", "base_url": "https://site.example", "options": {}},
        draft=dict(DRAFT),
        credentials={"username": "acme", "password": "secret"},
        now=site.clock,
    )
    port.bombs = site.bombs
    return port


def attempt(site: Site, port: MemoryPort) -> dict[str, Any]:
    return publish_draft(make_context(port), pause=site.clock.sleep)


def drive(site: Site, port: MemoryPort, attempts: int = 12) -> dict[str, Any]:
    """Attempts as the worker makes them, until one succeeds or fails for good."""
    for _ in range(attempts):
        try:
            return attempt(site, port)
        except Crash:
            site.clock.sleep(0.1)
        except Snooze as signal:
            # `until` is a real time and the site's clock stands still meanwhile: a little more makes up for that.
            site.clock.sleep(max(0.0, (signal.until - datetime.now(UTC)).total_seconds()) + 0.05)
        except Retry as signal:
            site.clock.sleep(signal.after or 1.0)
        except (OSError, StepError) as error:
            if isinstance(error, StepError) and error.permanent:
                raise
            site.clock.sleep(1.0)
    raise AssertionError(f"not published in {attempts} attempts: {port.publication}, {port.logs}")
