"""Pipelines for the tests of the running service: steps that obey their input."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from actors import Pipeline, ProviderBusy, Reject, Retry, Snooze, StepContext, step


class Orders(BaseModel):
    """What the steps are to do."""

    do: Literal[
        "return",
        "fail",
        "fail_once",
        "reject",
        "retry_once",
        "busy_once",
        "snooze_once",
        "hang",
        "exit",
        "grow",
        "wait",
        "wait_and_fail_once",
        "undeclared",
        "flood",
        "artifact",
        "call",
        "set",
        "large",
    ] = "return"
    #: A folder in which a step notes that it ran, and looks for `go` when it waits.
    folder: str | None = None


def obey(ctx: StepContext[Orders]) -> dict[str, Any]:
    orders = ctx.input
    note(ctx, "start")
    match orders.do:
        case "fail":
            raise RuntimeError("as ordered")
        case "fail_once" if ctx.attempt == 1:
            raise RuntimeError("once")
        case "reject":
            raise Reject("no use", code="publish_failed")
        case "retry_once" if ctx.attempt == 1:
            raise Retry(0.05, "again")
        case "busy_once" if seen(ctx) == 1:
            raise ProviderBusy(0.05, "gemini:test", "quota")
        case "snooze_once" if seen(ctx) == 1:
            raise Snooze(datetime.now(UTC) + timedelta(seconds=0.1), "later")
        case "hang":
            while True:
                time.sleep(0.05)
        case "grow":
            grow()
        case "wait" | "wait_and_fail_once":
            while not (Path(orders.folder or "/nonexistent") / "go").exists():
                time.sleep(0.01)
            if orders.do == "wait_and_fail_once" and ctx.attempt == 1:
                raise RuntimeError("once")
        case "exit":
            os._exit(7)
        case "undeclared":
            ctx.clients.text_model()
        case "artifact":
            ctx.artifact("large.bin", "application/octet-stream", bytes(6 << 20))
        case "call":
            ctx._port.call("artifact.save", {"data": {"not", "JSON"}})
        case "set":
            return {"a set": {1}}
        case "large":
            return {"large": "x" * (2 << 20)}
    ctx.progress(50, "half")
    note(ctx, "end")
    return {"attempt": ctx.attempt, "pid": os.getpid(), "account": ctx.account}


def grow() -> None:
    """Take more and more memory."""
    kept = []
    while True:
        kept.append(bytearray(16 << 20))
        time.sleep(0.01)


def note(ctx: StepContext[Orders], what: str) -> None:
    """Leave a line in the folder: what, account, when (monotonic, comparable over processes of one host)."""
    if ctx.input.folder is not None:
        with (Path(ctx.input.folder) / f"{ctx.job.id}.log").open("a") as file:
            file.write(f"{what} {ctx.account} {time.monotonic()}\n")


def seen(ctx: StepContext[Orders]) -> int:
    """How often the job's step has begun."""
    return (Path(ctx.input.folder or "/nonexistent") / f"{ctx.job.id}.log").read_text().count("start")


@step(lane="quick", time_limit=120, max_attempts=3, backoff=(0.05, 0.1), isolation="thread")
def quick(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


@step(lane="apart", time_limit=60, max_attempts=2, backoff=(0.05, 0.1), isolation="process", effect="idempotent")
def apart(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


@step(
    lane="apart",
    time_limit=60,
    max_attempts=1,
    isolation="process",
    effect="idempotent",
    memory_limit=400 << 20,
)
def small(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


@step(lane="apart", time_limit=2, max_attempts=2, backoff=(0.05, 0.1), isolation="process", effect="idempotent")
def hurried(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


@step(lane="apart", time_limit=120, max_attempts=2, backoff=(0.05, 0.1), isolation="process", effect="idempotent")
def patient(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


@step(lane="apart", time_limit=3, max_attempts=3, backoff=(0.05, 0.1), effect="irreversible")
def once(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


@step(lane="apart", time_limit=120, max_attempts=3, backoff=(0.05, 0.1), effect="irreversible")
def once_slowly(ctx: StepContext[Orders]) -> dict[str, Any]:
    return obey(ctx)


def talk(ctx: StepContext[Orders]) -> dict[str, Any]:
    for number in range(50_000 if ctx.input.do == "flood" else 5_000):
        line = f"line {number}"
        ctx.log.info(line)
    return obey(ctx)


@step(lane="apart", time_limit=6, max_attempts=1, isolation="process", effect="idempotent")
def talker(ctx: StepContext[Orders]) -> dict[str, Any]:
    return talk(ctx)


@step(lane="quick", time_limit=120, max_attempts=1, isolation="thread")
def talker_here(ctx: StepContext[Orders]) -> dict[str, Any]:
    return talk(ctx)


@step(lane="last", time_limit=30, max_attempts=1, isolation="thread")
def last(ctx: StepContext[Orders]) -> dict[str, Any]:
    return {"before": dict(ctx.outputs)}


@step(lane="last", time_limit=30, max_attempts=1, isolation="thread", required=False)
def extra(ctx: StepContext[Orders]) -> dict[str, Any]:
    raise RuntimeError("best effort that fails")


@step(lane="last", time_limit=1, max_attempts=1, isolation="process", effect="idempotent", required=False)
def hanging(ctx: StepContext[Orders]) -> dict[str, Any]:
    while True:
        time.sleep(0.05)


PIPELINES = [
    Pipeline("talker", input=Orders, steps=[talker]),
    Pipeline("talker_here", input=Orders, steps=[talker_here]),
    Pipeline("quick", input=Orders, steps=[quick]),
    Pipeline("apart", input=Orders, steps=[apart]),
    Pipeline("small", input=Orders, steps=[small]),
    Pipeline("hurried", input=Orders, steps=[hurried]),
    Pipeline("patient", input=Orders, steps=[patient, last]),
    Pipeline("once", input=Orders, steps=[once]),
    Pipeline("once-slowly", input=Orders, steps=[once_slowly]),
    Pipeline("chain", input=Orders, steps=[quick, last, extra]),
    Pipeline("lingering", input=Orders, steps=[patient, hanging]),
]
