"""The Publisher protocol: what a target must be able to do so that a draft is published exactly once.

One contract suite in the tests runs over every implementation. The order of the calls is fixed by
`actors.publishing`: `ensure_session`, `find` before any second try, `publish` (which calls `before_submit` right
before the irreversible request leaves), `read_back`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ...context import Draft, SessionState


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


class Publisher(Protocol):
    """Publishes drafts at one target for one account, through that account's own browser session."""

    #: The word in an account's target, e.g. ``wordpress``.
    name: ClassVar[str]
    #: Seconds after which a request of a killed browser cannot come into effect any more.
    settle_seconds: float
    #: False when `find` can miss a post that is there: then a started publish is never repeated.
    find_is_reliable: bool

    def ensure_session(self, session: SessionState) -> SessionState | None:
        """Make sure that the browser is signed in; give back a new state when one came of it, else None.

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
