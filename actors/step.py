"""The `@step` decorator and the `Step` that it makes, and the check of a step's output.

A `Step` only records its declaration: importing one opens no connection. The worker declares one Dramatiq actor per
step, named ``pipeline.step``, on the step's lane.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .declarations import ClientName, Declaration
from .errors import InvalidCall

if TYPE_CHECKING:
    from .context import StepContext

Isolation = Literal["process", "thread"]
Effect = Literal["pure", "idempotent", "irreversible"]
StepFunction = Callable[["StepContext[Any]"], "dict[str, Any]"]

#: Bytes that a step's output may have as JSON.
MAX_OUTPUT_BYTES = 1 << 20
#: A lane's name is also a Dramatiq queue name and part of a Redis key.
LANE_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,47}")


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a pipeline. Call it with a `StepContext`; it returns the step's output as plain data."""

    #: The function's name; unique within a pipeline.
    name: str
    #: The kind of work; steps of one lane and account run one at a time.
    lane: str
    function: StepFunction
    #: Seconds that one attempt may take; its process tree is dead two seconds later.
    time_limit: float
    #: Including the first attempt.
    max_attempts: int
    #: Least and greatest delay between attempts, in seconds.
    backoff: tuple[float, float]
    isolation: Isolation
    effect: Effect
    #: False: best effort; the job continues if the step fails.
    required: bool
    #: Bytes of memory for the step's processes; None for the setting.
    memory_limit: int | None
    #: What the step may use; the worker refuses other calls.
    uses: Declaration

    @property
    def module(self) -> str:
        """The module that holds the step, from which a child process imports it."""
        return self.function.__module__

    def __call__(self, ctx: StepContext[Any]) -> dict[str, Any]:
        return self.function(ctx)


def step(
    *,
    lane: str,
    time_limit: float,
    max_attempts: int = 3,
    backoff: tuple[float, float] = (2.0, 300.0),
    isolation: Isolation = "process",
    effect: Effect = "pure",
    required: bool = True,
    memory_limit: int | None = None,
    clients: Iterable[ClientName] = (),
    session: bool = False,
    drafts: bool = False,
    publication: bool = False,
) -> Callable[[StepFunction], Step]:
    """Declare a function as a step. `Step` describes the settings; the worker refuses calls that are not declared.

    Args:
        lane: see `Step`.
        time_limit: seconds.
        max_attempts: at least 1.
        backoff: seconds.
        isolation: `process` or `thread`.
        effect: `pure`, `idempotent` or `irreversible`.
        required: False for best effort.
        memory_limit: bytes.
        clients: names of clients: `gemini` (`ctx.clients.text_model`), `browser` (`ctx.clients.browser`), `http`
            (`ctx.clients.http`).
        session: the account's sealed session and credentials, `ctx.session`.
        drafts: the job's draft, `ctx.drafts`.
        publication: where the account publishes and the ledger: `ctx.target`, `ctx.publication`.

    Raises:
        ValueError: a setting is out of range; the message names the step and the setting.
    """

    def declare(function: StepFunction) -> Step:
        name = function.__name__
        try:
            made = Step(
                name=name,
                lane=lane,
                function=function,
                time_limit=float(time_limit),
                max_attempts=max_attempts,
                backoff=(float(backoff[0]), float(backoff[1])),
                isolation=isolation,
                effect=effect,
                required=required,
                memory_limit=memory_limit,
                uses=Declaration.of(clients, session=session, drafts=drafts, publication=publication),
            )
        except ValueError as error:
            raise ValueError(f"step {name!r}: {error}") from None
        if faults := _faults(made):
            raise ValueError(f"step {name!r}: " + "; ".join(faults))
        return made

    return declare


def _faults(step: Step) -> list[str]:
    faults = []
    if not LANE_PATTERN.fullmatch(step.lane):
        faults.append(f"lane={step.lane!r} must match {LANE_PATTERN.pattern}")
    if not 0 < step.time_limit <= 86_400:
        faults.append(f"time_limit={step.time_limit:g} must be more than 0 and at most 86400 seconds")
    if not 1 <= step.max_attempts <= 100:
        faults.append(f"max_attempts={step.max_attempts!r} must be 1 to 100")
    if not 0 <= step.backoff[0] <= step.backoff[1] <= 86_400:
        faults.append(f"backoff={step.backoff!r} must be (least, greatest) seconds, 0 to 86400")
    if step.isolation not in ("process", "thread"):
        faults.append(f"isolation={step.isolation!r} must be 'process' or 'thread'")
    if step.effect not in ("pure", "idempotent", "irreversible"):
        faults.append(f"effect={step.effect!r} must be 'pure', 'idempotent' or 'irreversible'")
    if step.isolation == "thread" and step.effect == "irreversible":
        faults.append("an irreversible step needs isolation='process': a thread cannot be stopped at its limit")
    if step.memory_limit is not None and step.memory_limit < 64 * 1024 * 1024:
        faults.append(f"memory_limit={step.memory_limit!r} must be at least 64 MiB, in bytes")
    return faults


def check_output(output: Any) -> bytes:
    """A step's output as JSON.

    Raises:
        InvalidCall: it is not a dict of JSON data, or is too large.
    """
    if not isinstance(output, dict):
        raise InvalidCall(f"the step returned {type(output).__name__}; a step returns a dict of plain data")
    return encode_output(output)


def encode_output(output: Any, max_bytes: int = MAX_OUTPUT_BYTES) -> bytes:
    """Any value as JSON. Raises InvalidCall as `check_output` does."""
    try:
        encoded = json.dumps(output, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidCall(f"the step returned something that is not JSON: {error}") from error
    if len(encoded) > max_bytes:
        raise InvalidCall(
            f"the step returned {len(encoded)} bytes of JSON, where {max_bytes} are allowed; keep large data as an "
            "artifact"
        )
    return encoded
