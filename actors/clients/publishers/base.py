"""The Publisher protocol: what is needed to publish a draft exactly once.

One contract suite (`actors.publisher_contract`) runs over every implementation. `actors.publishing` fixes the order of
the calls: `ensure_session`, `find` before any second try, `publish` (which calls `before_submit` right before it sends
the irreversible request), `read_back`.

`Updates`, `Removes` and `AddsImages` are optional capabilities: a publisher has one if it has its method.
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
    """A post at the target. `external_id` is the target's own id, if it has one."""

    url: str
    external_id: str | None


@dataclass(frozen=True, slots=True)
class PublicPost:
    """A post's public title, and its text without markup."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture for a post: `name` is a file name, `alt` the alternative text."""

    name: str
    content_type: str
    content: bytes
    alt: str


class PublisherClients:
    """The browser and HTTP client of one attempt; both refuse private addresses.

    The browser starts at its first use and ends with the `with` block.
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
            ProviderError: the browser does not start.
        """
        if self._browser is None:
            self._browser = self._open.enter_context(self._clients.browser())
        return self._browser

    @property
    def http(self) -> Http:
        """HTTP requests, for targets with an HTTP API."""
        if self._http is None:
            self._http = self._clients.http()
        return self._http

    def evidence(self) -> bytes | None:
        """A screenshot (PNG) of the browser's page; None if there is none."""
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

    #: The publisher's name in an account's target, e.g. ``wordpress``.
    name: ClassVar[str]
    #: Seconds after which a request of a killed process can no longer take effect.
    settle_seconds: float
    #: False if `find` can miss an existing post: then a started publish is never repeated.
    find_is_reliable: bool

    def __init__(self, target: Target, clients: PublisherClients) -> None:
        """Check the target's options, without a request. All requests go through `clients.browser` or `clients.http`.

        Raises:
            PublishFailed: an option is wrong; the message names it.
        """

    def ensure_session(self, session: SessionState) -> SessionState | None:
        """Make sure that the account is signed in; returns the session's new state after a sign-in, else None.

        Raises:
            LoginRequired: the session is over, and credentials are missing or refused.
        """

    def find(self, marker: str) -> Post | None:
        """The post with the marker; None if the target has none."""

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        """Publish the draft; calls `before_submit` once, right before it sends the irreversible request.

        Raises:
            PublishFailed: nothing was published, for certain.
        """

    def read_back(self, url: str) -> PublicPost:
        """Fetch the public page as a reader who is not signed in."""


class Updates(Protocol):
    """Optional: the target can change a post that it has."""

    def update(self, post: Post, draft: Draft) -> Post:
        """Replace the post's content with the draft's, at the same address; idempotent.

        Raises:
            PublishFailed: the post is unchanged, for certain.
        """


class Removes(Protocol):
    """Optional: the target can take a post off the public page."""

    def remove(self, post: Post) -> None:
        """Remove the post, if it is still there.

        Raises:
            PublishFailed: the post is still there, for certain.
        """


class AddsImages(Protocol):
    """Optional: the target can keep pictures and show them in posts."""

    def add_images(self, marker: str, images: Sequence[Image]) -> Sequence[str]:
        """Store the pictures for the post with the marker; returns their public URLs in the same order.

        Called before `publish`. A picture that an earlier attempt has stored is found by its name.
        """


#: The optional methods.
CAPABILITIES = ("update", "remove", "add_images")


def capabilities(publisher: Publisher | type[Publisher]) -> frozenset[str]:
    """Which of `CAPABILITIES` the publisher has."""
    return frozenset(name for name in CAPABILITIES if callable(getattr(publisher, name, None)))
