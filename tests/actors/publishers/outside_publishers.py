"""Publishers as a stranger's package would have them, right ones and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from actors import Draft, Post, PublicPost, PublisherClients, SessionState, Target


class Right:
    """The least that a publisher has."""

    name: ClassVar[str] = "right"
    settle_seconds = 1.0
    find_is_reliable = True

    def __init__(self, target: Target, clients: PublisherClients) -> None:
        self.target = target
        self.clients = clients

    def ensure_session(self, session: SessionState) -> SessionState | None:
        return None

    def find(self, marker: str) -> Post | None:
        return None

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        before_submit()
        return Post(f"{self.target.base_url}/{marker}", None)

    def read_back(self, url: str) -> PublicPost:
        return PublicPost("", "")

    def remove(self, post: Post) -> None:
        """A capability."""


class SameName(Right):
    """Another class of that name."""


class TakesBuiltInName(Right):
    name: ClassVar[str] = "wordpress"


class BadName(Right):
    name: ClassVar[str] = "Right!"


class Incomplete:
    """Lacks two methods."""

    name: ClassVar[str] = "incomplete"

    def ensure_session(self, session: SessionState) -> SessionState | None:
        return None

    def find(self, marker: str) -> Post | None:
        return None


class Timeless(Right):
    """Lacks the two attributes that are numbers and answers, which a class may set when it is made."""

    name: ClassVar[str] = "timeless"

    def __getattribute__(self, name: str) -> object:
        if name in ("settle_seconds", "find_is_reliable"):
            raise AttributeError(name)
        return super().__getattribute__(name)


NOT_A_CLASS = Right.__init__


class FolderPublisher:
    """Publishes into a folder of this machine, one file a post. It opens no connection."""

    name: ClassVar[str] = "folder"
    settle_seconds = 0.5
    find_is_reliable = True

    def __init__(self, target: Target, clients: PublisherClients) -> None:
        self._folder = Path(str(target.options["folder"]))

    def ensure_session(self, session: SessionState) -> SessionState | None:
        return None

    def find(self, marker: str) -> Post | None:
        path = self._folder / f"{marker}.json"
        return Post(path.as_uri(), marker) if path.exists() else None

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        before_submit()
        path = self._folder / f"{marker}.json"
        path.write_text(json.dumps({"title": draft.title, "text": draft.body}))
        return Post(path.as_uri(), marker)

    def read_back(self, url: str) -> PublicPost:
        return PublicPost(**json.loads(Path(url.removeprefix("file://")).read_text()))
