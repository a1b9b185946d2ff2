"""The whole error tree of what an account owns.

    OnelaneError                 (code, message that names the ids involved and what to do)
    ├── InvalidInput             invalid_request
    │   ├── InvalidAccount       invalid_request: the account id is out of shape
    │   ├── UnknownPipeline      unknown_pipeline
    │   ├── InvalidPipelineInput invalid_input
    │   ├── InvalidSchedule      invalid_schedule
    │   └── UnsafeTargetUrl      unsafe_url
    ├── NotFound                 not_found
    ├── Conflict
    │   ├── JobFinished          job_finished
    │   ├── JobNotRetryable      job_not_retryable
    │   ├── NotAwaitingApproval  not_awaiting_approval
    │   ├── DraftNotPending      draft_not_pending
    │   ├── PublicationNotUnknown  publication_not_unknown
    │   ├── ScheduleEnded        schedule_ended
    │   ├── QueueNotEmpty        queue_not_empty
    │   ├── AccountBusy          account_busy
    │   ├── AccountDraining      account_draining
    │   ├── AccountSuspended     account_suspended
    │   └── ClaimLost            idempotency_in_progress: another call has taken the idempotency key over
    ├── StaleVersion             stale_version
    │   └── DraftChanged         publish_failed: to a step, which tries again
    ├── LimitReached             (with retry_after)
    │   ├── QueueFull            queue_full
    │   └── QuotaExhausted       quota_exhausted
    ├── Unavailable              unavailable: the database or, for calls that need it, Redis cannot be reached
    │   └── NotWritable          unavailable: the database answers and takes no writes
    ├── OwnershipLost            lost: another attempt owns the step now
    └── SecretsError             a sealed secret cannot be opened: wrong or missing key

The broker has a tree of its own (`tenants.queues.errors`), because it is used alone too. One table,
`orchestrator.web.problems`, maps codes to HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in an input: where (`loc`, keys and indexes from the outside in) and what."""

    loc: tuple[str | int, ...]
    message: str


class OnelaneError(Exception):
    """Base of all; `code` is the stable word of the HTTP API."""

    code: ClassVar[str] = "internal"


class InvalidInput(OnelaneError):
    """The caller's input is wrong; nothing was written. `faults` names every fault found."""

    code = "invalid_request"

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class InvalidAccount(InvalidInput):
    """The account id is out of shape."""


class UnknownPipeline(InvalidInput):
    """No pipeline of that name is loaded."""

    code = "unknown_pipeline"


class InvalidPipelineInput(InvalidInput):
    """The job's input does not fit the pipeline's model."""

    code = "invalid_input"


class InvalidSchedule(InvalidInput):
    """A schedule's times cannot be told from what was given, or never come."""

    code = "invalid_schedule"


class UnsafeTargetUrl(InvalidInput):
    """A URL of the caller's leads to a host that is not allowed."""

    code = "unsafe_url"


class NotFound(OnelaneError):
    """There is no such thing, or it is not the caller's."""

    code = "not_found"


class Conflict(OnelaneError):
    """The thing is not in a state that allows this."""

    code = "conflict"


class JobFinished(Conflict):
    code = "job_finished"


class JobNotRetryable(Conflict):
    code = "job_not_retryable"


class NotAwaitingApproval(Conflict):
    code = "not_awaiting_approval"


class DraftNotPending(Conflict):
    code = "draft_not_pending"


class PublicationNotUnknown(Conflict):
    code = "publication_not_unknown"


class ScheduleEnded(Conflict):
    """The schedule's inputs are used up."""

    code = "schedule_ended"


class QueueNotEmpty(Conflict):
    code = "queue_not_empty"


class AccountBusy(Conflict):
    code = "account_busy"


class AccountDraining(Conflict):
    code = "account_draining"


class ClaimLost(Conflict):
    """Another call took the idempotency key over: this one was held to be dead, and must leave nothing behind."""

    code = "idempotency_in_progress"


class AccountSuspended(Conflict):
    code = "account_suspended"


class StaleVersion(OnelaneError):
    """The resource has changed since the caller read it."""

    code = "stale_version"


class DraftChanged(StaleVersion):
    """The draft was edited between a step's loading it and its publish."""

    code = "publish_failed"


class LimitReached(OnelaneError):
    """A limit of the account refuses the job; `retry_after` in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(LimitReached):
    code = "queue_full"


class QuotaExhausted(LimitReached):
    code = "quota_exhausted"


class Unavailable(OnelaneError):
    """The database (or Redis, for a call that needs it) cannot be reached; nothing was accepted."""

    code = "unavailable"


class NotWritable(Unavailable):
    """The database answers and takes no writes; `reason` is `disk_full`, `read_only` or `disk_failed`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.message, self.reason = message, reason

    def __str__(self) -> str:
        return self.message


class OwnershipLost(OnelaneError):
    """A late write was refused: the attempt does not own its step any more."""

    code = "lost"


class SecretsError(OnelaneError):
    """A sealed secret cannot be opened with the keys at hand."""

    code = "internal"


def in_one_line(error: BaseException) -> str:
    """PostgreSQL's hints come on lines of their own, which a log takes for other messages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
