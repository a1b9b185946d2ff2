"""A step's attempt: what its owner carries, why a start was refused, and the writes that only the owner may do.

Invariant: a step is `running` for one attempt only, the one whose `run_token` is in the row. A write with another token
changes nothing and raises `OwnershipLost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, select, update

from ..database.models import Step
from ..errors import OwnershipLost
from .dispatch import Dispatch
from .events import NewEvent, record

steps = Step.__table__

#: Seconds after which a message whose step may not start yet is looked at again.
REFUSAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class OwnedAttempt:
    """An attempt that owns its step; each later write of the attempt is guarded by its `run_token`."""

    step_id: str
    job_id: str
    account: str
    pipeline: str
    name: str
    lane: str
    position: int
    run_token: int
    attempt: int
    max_attempts: int
    lost: int
    required: bool
    #: The job as it was at the start, and the outputs of the completed steps by name.
    job: Mapping[str, Any]
    outputs: Mapping[str, Any]
    #: Seconds left until the job's deadline at the start; None without one.
    deadline_seconds: float | None
    #: The step after this one, and whether it must be approved first; None when this is the last.
    following: Dispatch | None
    following_awaits_approval: bool
    #: Its tenant queue may have failures in a row, which end when it completes.
    after_failures: bool = False
    #: It is the one attempt that an open circuit let start.
    canary: bool = False

    @classmethod
    def of(cls, row: Mapping[Any, Any], job: Mapping[str, Any], *, canary: bool = False) -> OwnedAttempt:
        """From a step's row as a start reads it (`start_steps.load`), with the attempt's own values in it."""
        following = None
        if row["next_id"] is not None:
            following = Dispatch(
                id=row["next_id"],
                account=row["account"],
                pipeline=row["pipeline"],
                name=row["next_name"],
                lane=row["next_lane"],
                priority=row["priority"],
                sequence=row["sequence"],
                due_at=None,
            )
        return cls(
            **{name: row[name] for name in _COPIED},
            step_id=row["id"],
            job=job,
            outputs=row["outputs"] or {},
            deadline_seconds=row["deadline_left"],
            following=following,
            following_awaits_approval=bool(job["approval"]) and following is not None and not row["more_follow"],
            # With a concurrency of 1 no other step of the queue can end meanwhile: what holds now holds at the end.
            after_failures=row["circuit_failures"] is not None or row["concurrency"] > 1,
            canary=canary,
        )

    @property
    def needs_approval(self) -> bool:
        """It is the last step of a job that asks for approval."""
        return bool(self.job["approval"]) and self.following is None

    @property
    def status_after(self) -> str:
        """The status of the job, and of its next step, once this step has completed."""
        if self.following is None:
            return "completed"
        return "awaiting_approval" if self.following_awaits_approval else "queued"

    def step_event(self, status: str) -> NewEvent:
        """The event of the step's new status."""
        return NewEvent(
            self.account, self.job_id, "step", {"step": self.name, "status": status, "attempt": self.attempt}
        )

    def status_event(self, status: str) -> NewEvent:
        """The event of the job's new status."""
        return NewEvent(self.account, self.job_id, "status", {"status": status})

    def ownership_lost(self) -> OwnershipLost:
        """The error of a write that came after another attempt took the step, or after its end."""
        return OwnershipLost(
            f"step {self.step_id} ({self.pipeline}.{self.name}) of job {self.job_id} is not owned by run "
            f"{self.run_token} any more; its result is refused"
        )


#: Columns of the step that an attempt carries under the same name.
_COPIED = (
    *("job_id", "account", "pipeline", "name", "lane", "position"),
    *("run_token", "attempt", "max_attempts", "lost", "required"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and what may follow."""

    outcome: Literal["failed", "timed_out", "lost"]
    code: str
    message: str
    traceback: str = ""
    #: True if the step must not be retried.
    permanent: bool = False
    #: Provider and credential, if the provider refuses every request with this credential.
    refused_scope: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The step may not start now. Its message comes back after `seconds`, and no attempt is spent."""

    reason: str
    seconds: float
    #: Redis should have held the message back: its copy of the pause or circuit is out of date.
    redis_stale: bool = False


@dataclass(frozen=True, slots=True)
class NotRunnable:
    """The step will not run: it ended, or its job did. The message is settled."""

    reason: str


_OWNED = (
    steps.c.id == bindparam("p_step"),
    steps.c.status == "running",
    steps.c.run_token == bindparam("p_run_token"),
)
_STILL_OWNED = select(steps.c.id).where(*_OWNED).with_for_update()
_STILL_THERE = select(steps.c.id).where(steps.c.id == bindparam("p_step")).with_for_update(read=True)
_UPDATE_OWNED = update(steps).where(*_OWNED)


def still_owned(connection: Connection, owned: OwnedAttempt) -> None:
    """Lock the step's row, and make sure that this attempt still owns it.

    Raises:
        OwnershipLost: it does not.
    """
    known = {"p_step": owned.step_id, "p_run_token": owned.run_token}
    if connection.execute(_STILL_OWNED, known).one_or_none() is None:
        raise owned.ownership_lost()


def still_there(connection: Connection, owned: OwnedAttempt) -> None:
    """Make sure that the step was not removed, and is not until this transaction ends.

    For rows that an attempt leaves whoever owns the step now, such as screenshots and usage: nothing may be written for
    a step that was erased with its account.

    Raises:
        OwnershipLost: it was removed.
    """
    if connection.execute(_STILL_THERE, {"p_step": owned.step_id}).one_or_none() is None:
        raise owned.ownership_lost()


def write_owned(connection: Connection, owned: OwnedAttempt, **values: Any) -> None:
    """Write these columns of the step if this attempt owns it.

    Raises:
        OwnershipLost: it does not; nothing was written.
    """
    known = {"p_step": owned.step_id, "p_run_token": owned.run_token}
    if not connection.execute(_UPDATE_OWNED.values(**values), known).rowcount:
        raise owned.ownership_lost()


def progress(connection: Connection, owned: OwnedAttempt, percent: int, note: str) -> None:
    """Note how far the step is.

    Raises:
        OwnershipLost: another attempt owns the step.
    """
    write_owned(connection, owned, progress=percent, note=note)
    data = {"step": owned.name, "progress": percent, "note": note}
    record(connection, NewEvent(owned.account, owned.job_id, "progress", data))


def enter(connection: Connection, owned: OwnedAttempt) -> None:
    """Record that the function of an irreversible step is entered next: if it is cut off, its outcome is unknown.

    Raises:
        OwnershipLost: another attempt owns the step, so the function must not be entered.
    """
    write_owned(connection, owned, entered_token=owned.run_token)
