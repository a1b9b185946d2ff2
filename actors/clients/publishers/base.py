"""The Publisher protocol: what a target must be able to do so that a draft is published exactly once.

One contract suite (`actors.publisher_contract`) runs over every implementation. The order of the calls is fixed
by `actors.publishing`: `ensure_session`, `find` before any second try, `publish` (which calls `before_submit` right
before the irreversible request leaves), `read_back`.

What not every target can do is optional: `Updates`, `Removes`, `AddsImages`. A publisher has such a capability by
having its method; `capabilities` says which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from ...port import Draft, SessionState, Target

if TYPE_CHECKING:
    from .. import Clients
    from ..browser import Browser
    from ..http import Http


@dataclass(frozen=True, slots=True)
class Post:
    """A post as the target knows it. `external_id` is the target's own id, where it has one."""

    url: str
    external_id: str | None


@dataclass(frozen=True, slots=True)
class PublicPost:
    """A post as a reader sees it: its title, and its text without markup."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture for a post: `name` is a file name, `alt` the text for those who cannot see it."""

    name: str
    content_type: str
    content: bytes
    alt: str


class PublisherClients:
    """What one attempt reaches its target with: a browser and HTTP, both under the guard against private addresses.

    The browser starts at its first use and ends with the `with` block; a publisher that needs none never starts one.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._open = contextlib.ExitStack()
        self._browser: Browser | None = None
        self._http: Http | None = None

    @property
    def browser(self) -> Browser:
        """The attempt's own browser.

        Raises:
            ProviderError: it does not start.
        """
        if self._browser is None:
            self._browser = self._open.enter_context(self._clients.browser())
        return self._browser

    @property
    def http(self) -> Http:
        """HTTP requests, for targets with an interface for programs."""
        if self._http is None:
            self._http = self._clients.http()
        return self._http

    def evidence(self) -> bytes | None:
        """A picture (PNG) of the browser's page; None when no browser was started, or none can be taken."""
        return None if self._browser is None else self._browser.evidence()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser = None
        self._open.close()


class Publisher(Protocol):
    """Publishes drafts at one target for one account, through that account's own session."""

    #: The word in an account's target, e.g. ``wordpress``.
    name: ClassVar[str]
    #: Seconds after which a request of a killed process cannot come into effect any more.
    settle_seconds: float
    #: False when `find` can miss a post that is there: then a started publish is never repeated.
    find_is_reliable: bool

    def __init__(self, target: Target, clients: PublisherClients) -> None:
        """Check the target's options; open nothing. All requests go through `clients.browser` or `clients.http`.

        Raises:
            PublishFailed: an option is wrong; the message names it.
        """

    def ensure_session(self, session: SessionState) -> SessionState | None:
        """Make sure that the account is signed in; give back a new state when one came of it, else None.

        Raises:
            LoginRequired: the session is over and there are no credentials, or they are refused.
        """

    def find(self, marker: str) -> Post | None:
        """The post that carries the marker, or None when the target has none."""

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        """Publish the draft; `before_submit` is called once, right before the irreversible request leaves.

        Raises:
            PublishFailed: it is certain that nothing was published.
        """

    def read_back(self, url: str) -> PublicPost:
        """Fetch the public page as a reader who is not signed in."""


class Updates(Protocol):
    """Optional: the target can change a post that it has."""

    def update(self, post: Post, draft: Draft) -> Post:
        """Make the post say what the draft says, at the same address. Doing it twice is doing it once.

        Raises:
            PublishFailed: it is certain that the post is as it was.
        """


class Removes(Protocol):
    """Optional: the target can take a post off the public page."""

    def remove(self, post: Post) -> None:
        """Remove the post; one that is gone already is no fault.

        Raises:
            PublishFailed: it is certain that the post is still there.
        """


class AddsImages(Protocol):
    """Optional: the target can keep pictures and show them in posts."""

    def add_images(self, marker: str, images: Sequence[Image]) -> Sequence[str]:
        """Store the pictures for the post of that marker; gives back the public URL of each, in the same order.

        It is called before `publish`. A picture that an earlier try has stored is found again by its name, not doubled.
        """


#: The optional methods, each a capability's name.
CAPABILITIES = ("update", "remove", "add_images")


def capabilities(publisher: Publisher | type[Publisher]) -> frozenset[str]:
    """Which of `CAPABILITIES` the publisher has."""
    return frozenset(name for name in CAPABILITIES if callable(getattr(publisher, name, None)))
