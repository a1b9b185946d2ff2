"""The `@step` decorator and the `Step` that it makes.

A step only records what was declared: no broker, database or network is touched at import. The runtime declares
one Dramatiq actor per step, named ``pipeline.step``, on the step's lane.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .declarations import ClientName, Declaration

if TYPE_CHECKING:
    from .context import StepContext

Isolation = Literal["process", "thread"]
Effect = Literal["pure", "idempotent", "irreversible"]
StepFunction = Callable[["StepContext[Any]"], "dict[str, Any]"]

#: Bytes that a step's output may have as JSON.
MAX_OUTPUT_BYTES = 1 << 20
#: A lane's name: also a Dramatiq queue name and a part of a Redis key.
LANE_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,47}")


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a pipeline. Call it with a `StepContext`; it gives back the step's output as plain data."""

    #: The function's name; unique within a pipeline.
    name: str
    #: The kind of work; steps of one lane and account run one at a time.
    lane: str
    function: StepFunction
    #: Seconds that one attempt may take; its process tree is dead two seconds later.
    time_limit: float
    #: Attempts in all, the first one included.
    max_attempts: int
    #: Least and greatest delay between attempts, in seconds.
    backoff: tuple[float, float]
    isolation: Isolation
    effect: Effect
    #: False: best effort; the job goes on when the step fails.
    required: bool
    #: Bytes of memory that the step's process may take; None leaves it to the setting.
    memory_limit: int | None
    #: What the step may ask the worker for; every other call of its port is refused.
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
    """Declare a function as a step. See `Step` for the meaning of each setting.

    A step gets only what it declares; the worker refuses every other call:

    Args:
        lane: see `Step`, as for every argument that is not listed here.
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
        _check(name, lane, time_limit, max_attempts, backoff, isolation, effect, memory_limit)
        try:
            uses = Declaration.of(clients, session=session, drafts=drafts, publication=publication)
        except ValueError as error:
            raise ValueError(f"step {name!r}: {error}") from None
        return Step(
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
            uses=uses,
        )

    return declare


def _check(
    name: str,
    lane: str,
    time_limit: float,
    max_attempts: int,
    backoff: tuple[float, float],
    isolation: str,
    effect: str,
    memory_limit: int | None,
) -> None:
    faults = []
    if not LANE_PATTERN.fullmatch(lane):
        faults.append(f"lane={lane!r} must match {LANE_PATTERN.pattern}")
    if not 0 < time_limit <= 86_400:
        faults.append(f"time_limit={time_limit!r} must be more than 0 and at most 86400 seconds")
    if not 1 <= max_attempts <= 100:
        faults.append(f"max_attempts={max_attempts!r} must be 1 to 100")
    if not 0 <= backoff[0] <= backoff[1] <= 86_400:
        faults.append(f"backoff={backoff!r} must be (least, greatest) seconds, 0 to 86400")
    if isolation not in ("process", "thread"):
        faults.append(f"isolation={isolation!r} must be 'process' or 'thread'")
    if effect not in ("pure", "idempotent", "irreversible"):
        faults.append(f"effect={effect!r} must be 'pure', 'idempotent' or 'irreversible'")
    if isolation == "thread" and effect == "irreversible":
        faults.append("an irreversible step needs isolation='process': a thread cannot be stopped at its limit")
    if memory_limit is not None and memory_limit < 64 * 1024 * 1024:
        faults.append(f"memory_limit={memory_limit!r} must be at least 64 MiB, in bytes")
    if faults:
        raise ValueError(f"step {name!r}: " + "; ".join(faults))
