"""The pipelines of the chaos run: short steps in threads and processes, and one that may take effect only once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel

from actors import Pipeline, StepContext, step
from actors.clients.publishers.base import Post, PublicPost
from actors.port import Draft, SessionState, Target
from actors.publishing import PublishOnce

from .sight import Sight

_TEXT = "Nothing but a marker matters here."


class Orders(BaseModel):
    """What the steps are to do; `port` is the observer's."""

    port: int
    key: str
    #: How long each step takes.
    seconds: float = 0.0
    fail_once: bool = False
    #: How long the target takes before the post comes into effect, and before it answers after that.
    before: float = 0.0
    after: float = 0.0


def seen(ctx: StepContext[Orders], name: str, lane: str) -> Sight:
    known = {"account": ctx.account, "job": ctx.job.id, "step": name, "attempt": ctx.attempt}
    return Sight(ctx.input.port, queue=f"{lane}_{ctx.account}", **known)


def work(ctx: StepContext[Orders], name: str, lane: str) -> dict[str, Any]:
    with seen(ctx, name, lane) as sight:
        time.sleep(ctx.input.seconds)  # the work itself
        if ctx.input.fail_once and ctx.attempt == 1:
            raise RuntimeError("once, as ordered")
    return {"run": sight.id}


@step(lane="quick", time_limit=30, max_attempts=4, backoff=(0.1, 1.0), isolation="thread", effect="idempotent")
def quick(ctx: StepContext[Orders]) -> dict[str, Any]:
    return work(ctx, "quick", "quick")


@step(lane="apart", time_limit=30, max_attempts=4, backoff=(0.1, 1.0), isolation="process", effect="idempotent")
def apart(ctx: StepContext[Orders]) -> dict[str, Any]:
    return work(ctx, "apart", "apart")


@step(
    lane="quick",
    time_limit=30,
    max_attempts=4,
    backoff=(0.1, 1.0),
    isolation="thread",
    effect="idempotent",
    drafts=True,
)
def write(ctx: StepContext[Orders]) -> dict[str, Any]:
    with seen(ctx, "write", "quick") as sight:
        ctx.drafts.create(title=ctx.input.key, body=_TEXT, tags=[])
    return {"run": sight.id}


@step(
    lane="post",
    time_limit=60,
    max_attempts=6,
    backoff=(0.1, 1.0),
    isolation="process",
    effect="irreversible",
    session=True,
    drafts=True,
    publication=True,
)
def post(ctx: StepContext[Orders]) -> dict[str, Any]:
    """Post the draft at the observer, by the same order of calls and the same ledger as every publisher."""
    with seen(ctx, "post", "post") as sight:
        draft = ctx.drafts.load()
        entry = ctx.publication.open(Target(ObserverPublisher.name, "http://observer", {}))
        if entry.status == "confirmed":
            return {"run": sight.id, "marker": entry.marker}
        PublishOnce(ctx, ObserverPublisher(sight, ctx.input), draft, entry).run()
    return {"run": sight.id, "marker": entry.marker}


class ObserverPublisher:
    """A `Publisher` whose target is the observer."""

    name: ClassVar[str] = "observer"
    settle_seconds = 1.0
    find_is_reliable = True

    def __init__(self, sight: Sight, orders: Orders) -> None:
        self._sight = sight
        self._orders = orders

    def ensure_session(self, session: SessionState) -> SessionState | None:
        return None

    def find(self, marker: str) -> Post | None:
        return Post(f"observer:{marker}", None) if self._sight.find(marker) else None

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        before_submit()
        self._sight.post(marker, before=self._orders.before, after=self._orders.after)
        return Post(f"observer:{marker}", None)

    def read_back(self, url: str) -> PublicPost:
        return PublicPost(self._orders.key, _TEXT)


PIPELINES = [
    Pipeline("quick", input=Orders, steps=[quick]),
    Pipeline("apart", input=Orders, steps=[apart]),
    Pipeline("chain", input=Orders, steps=[quick, apart]),
    Pipeline("post", input=Orders, steps=[write, post]),
]
