"""No-op pipelines for the benchmarks."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel

from actors import Pipeline, StepContext, step


class Nothing(BaseModel):
    """No input."""


@step(lane="bench", time_limit=60, isolation="thread")
def first(ctx: StepContext[Nothing]) -> dict[str, Any]:
    return {}


@step(lane="bench-two", time_limit=60, isolation="thread")
def second(ctx: StepContext[Nothing]) -> dict[str, Any]:
    return {}


@step(lane="bench-apart", time_limit=60, isolation="process")
def apart(ctx: StepContext[Nothing]) -> dict[str, Any]:
    return {}


class Lines(BaseModel):
    """How many lines to log."""

    lines: int


def log_lines(ctx: StepContext[Lines]) -> dict[str, Any]:
    began = time.perf_counter()
    for number in range(ctx.input.lines):
        line = f"line {number} of {ctx.input.lines}"
        ctx.log.info(line)
    return {"seconds": time.perf_counter() - began}


@step(lane="bench", time_limit=600, isolation="thread", max_attempts=1)
def talk(ctx: StepContext[Lines]) -> dict[str, Any]:
    return log_lines(ctx)


@step(lane="bench-apart", time_limit=600, isolation="process", max_attempts=1)
def talk_apart(ctx: StepContext[Lines]) -> dict[str, Any]:
    return log_lines(ctx)


PIPELINES = [
    Pipeline("one", input=Nothing, steps=[first]),
    Pipeline("two", input=Nothing, steps=[first, second]),
    Pipeline("talk", input=Lines, steps=[talk]),
    Pipeline("talk_apart", input=Lines, steps=[talk_apart]),
    Pipeline("apart", input=Nothing, steps=[apart]),
]
