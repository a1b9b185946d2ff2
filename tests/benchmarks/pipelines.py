"""No-op pipelines for the benchmarks."""

from __future__ import annotations

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


PIPELINES = [
    Pipeline("one", input=Nothing, steps=[first]),
    Pipeline("two", input=Nothing, steps=[first, second]),
    Pipeline("apart", input=Nothing, steps=[apart]),
]
