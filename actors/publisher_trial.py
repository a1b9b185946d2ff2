"""A trial of a publisher against its real target, without a job: session, find, publish, read back, find.

It makes the calls of `actors.publishing` in their order, once each, and checks them against the protocol. The post is
real; a publisher that can remove posts removes it at the end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .clients.publishers.base import Post, Publisher, capabilities
from .errors import StepError
from .port import Draft, SessionState
from .publishing import find_difference, read_back

#: All Markdown elements that a target may change.
TRIAL_BODY = """\
## This is a trial

Each *account* has **its own** "lane" -- and `code` too.

- one
- two

> quoted, with an [address](https://example.com/?a=1&b=2)

| left | right |
|:-----|------:|
| 1 | 2 |

```
if x < 1 && y: [kept]
```

한국어도 되고, emoji 🎉 too.
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One call of the trial, and whether it obeyed the protocol."""

    name: str
    ok: bool
    detail: str
    seconds: float


class TrialFailed(StepError):
    """A call's answer violates the protocol."""


@dataclass
class Trial:
    """One trial of one publisher; iterate over `run` once. `post` is the published post."""

    publisher: Publisher
    session: SessionState
    #: Do not remove the post at the end.
    keep: bool = False
    pause: Callable[[float], None] = time.sleep
    marker: str = field(default_factory=lambda: f"onelane-trial-{secrets.token_hex(5)}")
    draft: Draft = field(init=False)
    post: Post | None = field(default=None, init=False)
    #: The new state that `ensure_session` returned, for the caller to keep.
    renewed: SessionState | None = field(default=None, init=False)
    _submits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        title = f"A trial of onelane {datetime.now(UTC):%Y-%m-%d}: 2x2?"
        self.draft = Draft("trial", title, TRIAL_BODY, ("onelane",), "pending_publish", 1)

    def run(self) -> Iterator[Stage]:
        """Yield the stages as they end. After a failed one only the removal of the post follows."""
        removes = "remove" in capabilities(self.publisher) and not self.keep
        for name, call in (
            ("session", self._ensure_session),
            ("find", self._find_nothing),
            ("publish", self._publish),
            ("read back", self._read_back),
            ("find again", self._find_again),
        ):
            stage = _timed(name, call)
            yield stage
            if not stage.ok:
                break
        if removes and self.post is not None:
            yield _timed("remove", self._remove)

    def _ensure_session(self) -> str:
        self.renewed = self.publisher.ensure_session(self.session)
        return "the session is valid" if self.renewed is None else "signed in; the session has a new state"

    def _find_nothing(self) -> str:
        found = self.publisher.find(self.marker)
        if found is not None:
            raise TrialFailed(f"find gives {found.url} for a marker that was drawn for this trial; it must give None")
        return f"no post carries {self.marker}"

    def _publish(self) -> str:
        try:
            self.post = self.publisher.publish(self.draft, self.marker, self._before_submit)
        except Exception:
            if self._submits:
                self.pause(self.publisher.settle_seconds)
                self.post = self.publisher.find(self.marker)
            raise
        if self._submits != 1:
            raise TrialFailed(f"publish called before_submit {self._submits} times; it must call it exactly once")
        if not self.post.url.startswith(("http://", "https://")):
            raise TrialFailed(f"publish gives the URL {self.post.url!r}; it must begin with http:// or https://")
        return f"published at {self.post.url}"

    def _read_back(self) -> str:
        assert self.post is not None
        difference = find_difference(self.draft, read_back(self.publisher, self.post.url, self.pause))
        if difference:
            raise TrialFailed(f"the public page is not the draft: {difference}")
        return "the public page has the title and the whole text"

    def _find_again(self) -> str:
        found = self.publisher.find(self.marker)
        if found is None:
            sure = "find_is_reliable is True, so a second try would publish it twice"
            if not self.publisher.find_is_reliable:
                return "find does not see the post, as find_is_reliable = False says"
            raise TrialFailed(f"find does not see the post, and {sure}")
        if self.post is not None and found != self.post:
            raise TrialFailed(f"find gives {found}, and publish gave {self.post}; both must be the same")
        return f"the post is found at {found.url}"

    def _remove(self) -> str:
        assert self.post is not None
        self.publisher.remove(self.post)  # type: ignore[attr-defined]  # `capabilities` has said so
        if self.publisher.find(self.marker) is not None:
            raise TrialFailed("find still sees the post after remove")
        self.post = None
        return "the post is removed"

    def _before_submit(self) -> None:
        self._submits += 1


def _timed(name: str, call: Callable[[], str]) -> Stage:
    began = time.monotonic()
    try:
        ok, detail = True, call()
    except Exception as error:  # a publisher may raise anything; the trial reports it
        code = error.code if isinstance(error, StepError) else StepError.code
        ok, detail = False, f"{type(error).__name__} ({code}): {error}"
    return Stage(name, ok, detail, round(time.monotonic() - began, 2))
