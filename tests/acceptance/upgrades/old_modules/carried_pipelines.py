"""The pipelines with which archives are made, by whatever release makes them: the least that every release can load.

`tests/acceptance/upgrades/new_modules` has the next version of the same module, in which steps have changed.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from actors import Pipeline, StepContext, step


class Word(BaseModel):
    model_config = ConfigDict(extra="forbid")
    word: str = "ping"
    hold: bool = False


@step(lane="carried", time_limit=600, max_attempts=5, effect="pure")
def first(ctx: StepContext[Word]) -> dict[str, Any]:
    while ctx.input.hold:  # until the whole machine is killed
        time.sleep(0.1)
    return {"word": ctx.input.word}


@step(lane="carried_later", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def second(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"words": [ctx.outputs["first"]["word"], ctx.input.word]}


@step(lane="carried", time_limit=60, max_attempts=5, backoff=(30, 30), isolation="thread", effect="pure")
def fails_once(ctx: StepContext[Word]) -> dict[str, Any]:
    if ctx.attempt == 1:
        raise RuntimeError("the first attempt fails, and the next one is half a minute away")
    return {"attempt": ctx.attempt}


@step(lane="carried", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def renamed_later(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"by": "the old name"}


@step(lane="left_later", time_limit=60, max_attempts=5, isolation="thread", effect="pure")
def moved_later(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"by": "the old lane"}


PIPELINES = [
    Pipeline("carried", input=Word, steps=[first, second]),
    Pipeline("retried", input=Word, steps=[fails_once]),
    Pipeline("renamed", input=Word, steps=[renamed_later]),
    Pipeline("moved", input=Word, steps=[moved_later]),
]
