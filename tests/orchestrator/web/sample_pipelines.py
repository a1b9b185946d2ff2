"""Pipelines that the web tests load; their steps are moved by the tests and never run."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from actors import Pipeline, StepContext, step


class Topic(BaseModel):
    model_config = ConfigDict(extra="forbid")

    topic: str = Field(min_length=1)
    words: int = 100


@step(lane="generate", time_limit=60)
def write(ctx: StepContext[Topic]) -> dict[str, Any]:
    return {"title": ctx.input.topic}


@step(lane="publish", time_limit=60, effect="irreversible", session=True)
def post(ctx: StepContext[Topic]) -> dict[str, Any]:
    return {"url": "http://127.0.0.1/1"}


PIPELINES = [Pipeline("sample", input=Topic, steps=[write, post], description="Two steps that do nothing.")]
