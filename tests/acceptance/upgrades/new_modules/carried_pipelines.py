"""The next version of the pipelines with which the archives were made: nothing holds, and some steps have changed.

`renamed` has a step of another name, and `moved` the same step on another lane: jobs that wait keep the steps and the
lanes with which they were made.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from actors import Pipeline, StepContext, step


class Word(BaseModel):
    model_config = ConfigDict(extra="forbid")
    word: str = "ping"
    hold: bool = False


@step(lane="carried", time_limit=60, max_attempts=5, effect="pure")
def first(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"word": ctx.input.word}


@step(lane="carried_later", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def second(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"words": [ctx.outputs["first"]["word"], ctx.input.word]}


@step(lane="carried", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def fails_once(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"attempt": ctx.attempt}


@step(lane="carried", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def renamed(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"by": "the new name"}


@step(lane="moved", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def moved_later(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"by": "the new lane"}


PIPELINES = [
    Pipeline("carried", input=Word, steps=[first, second]),
    Pipeline("retried", input=Word, steps=[fails_once]),
    Pipeline("renamed", input=Word, steps=[renamed]),
    Pipeline("moved", input=Word, steps=[moved_later]),
]
