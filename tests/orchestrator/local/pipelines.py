"""Quick pipelines for tests of the command line and the supervisor: no model, no browser."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from actors import Pipeline, Reject, StepContext, step


class Word(BaseModel):
    model_config = ConfigDict(extra="forbid")
    word: str = "ping"


@step(lane="echo", time_limit=10, max_attempts=1, isolation="thread", effect="pure")
def echo(ctx: StepContext[Word]) -> dict[str, Any]:
    return {"word": ctx.input.word}


@step(lane="echo", time_limit=10, max_attempts=1, isolation="thread", effect="pure")
def refuse(ctx: StepContext[Word]) -> dict[str, Any]:
    raise Reject(f"{ctx.input.word} is never good enough")


PIPELINES = [
    Pipeline("echo", input=Word, steps=[echo]),
    Pipeline("refuse", input=Word, steps=[refuse]),
]
