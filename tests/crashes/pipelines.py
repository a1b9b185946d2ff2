"""A pipeline that spends nothing on a text model: the input is the draft, and the built-in step publishes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from actors import Pipeline, StepContext, step
from actors.pipelines.blog import publish


class Post(BaseModel):
    """The post to publish; `body` is Markdown."""

    title: str
    body: str


@step(lane="generate", time_limit=30, isolation="thread", effect="idempotent", drafts=True)
def write(ctx: StepContext[Post]) -> dict[str, Any]:
    """Keep the input as the job's draft. A second attempt replaces the draft of the first, which was never used."""
    draft = ctx.drafts.create(title=ctx.input.title, body=ctx.input.body, tags=["crashes"])
    return {"draft_id": draft.id}


PIPELINES = [Pipeline("post", input=Post, steps=[write, publish])]
