"""The values of a step's attempt: what its owner carries, and why a start was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import OwnershipLost
from .dispatch import Dispatch
from .events import NewEvent

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
