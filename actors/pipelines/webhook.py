"""The built-in pipeline `webhook`: one step that calls a job's `callback_url`. Only onelane makes its jobs.

A delivery is a step, so it has retries, a lease, dead letters and replay, and runs one at a time per account. The child
process that makes the request does not know the secret: the worker signs.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tenants import webhooks

from ..clients import callbacks
from ..context import StepContext
from ..errors import CallbackFailed
from ..pipeline import Pipeline
from ..signals import Reject
from ..step import step

#: "Gone": the receiver wants no more calls.
_GONE = 410


class Delivery(BaseModel):
    """The job that has ended, and its final status."""

    job: str
    status: str


@step(
    lane=webhooks.LANE,
    time_limit=webhooks.TIME_LIMIT_SECONDS,
    max_attempts=webhooks.MAX_ATTEMPTS,
    backoff=webhooks.BACKOFF_SECONDS,
    effect="idempotent",
)
def deliver(ctx: StepContext[Delivery]) -> dict[str, Any]:
    """Call the URL once.

    Raises:
        CallbackFailed, UnsafeUrl: it was not accepted, or must not be called.
    """
    call = ctx.callback.load()
    if call is None:
        return {"superseded": True}
    status = callbacks.post(call)
    ctx.callback.answered(status)
    if status == _GONE:
        raise Reject("the receiver answered 410: it wants no more calls", code=CallbackFailed.code)
    if not 200 <= status < 300:
        redirected = "; redirects are not followed" if 300 <= status < 400 else ""
        raise CallbackFailed(f"the receiver answered {status}{redirected}")
    return {"status_code": status}


PIPELINES = [
    Pipeline(
        webhooks.PIPELINE,
        input=Delivery,
        steps=[deliver],
        description="Calls a job's callback_url when it has ended. onelane makes its jobs; nobody else can.",
    )
]
