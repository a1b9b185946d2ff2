"""The error tree of `tenants`.

    OnelaneError                 (code, message that names the ids involved and what to do)
    ├── InvalidInput             invalid_request
    │   ├── InvalidAccount       invalid_request: the account id has no valid form
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
    │   └── ClaimLost            idempotency_in_progress: another call has taken over the idempotency key
    ├── StaleVersion             stale_version
    │   └── DraftChanged         publish_failed: to a step, which tries again
    ├── LimitReached             (with retry_after)
    │   ├── QueueFull            queue_full
    │   └── QuotaExhausted       quota_exhausted
    ├── Unavailable              unavailable: the database or, for calls that need it, Redis is unreachable
    │   └── NotWritable          unavailable: the database answers and takes no writes
    ├── OwnershipLost            lost: another attempt owns the step now
    └── SecretsError             a sealed secret cannot be opened: wrong or missing key

The broker has its own tree (`tenants.queues.errors`), because it is usable alone. One table,
`orchestrator.web.http.problems`, maps codes to HTTP.
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
    """Base of all; `code` is stable and part of the HTTP API."""

    code: ClassVar[str] = "internal"


class InvalidInput(OnelaneError):
    """The caller's input is invalid; nothing was written. `faults` has all faults."""

    code = "invalid_request"

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class InvalidAccount(InvalidInput):
    """The account id has no valid form."""


class UnknownPipeline(InvalidInput):
    """No pipeline of that name is loaded."""

    code = "unknown_pipeline"


class InvalidPipelineInput(InvalidInput):
    """The job's input does not fit the pipeline's model."""

    code = "invalid_input"


class InvalidSchedule(InvalidInput):
    """A schedule's times cannot be computed, or it never fires."""

    code = "invalid_schedule"


class UnsafeTargetUrl(InvalidInput):
    """The caller's URL has a host that is not allowed."""

    code = "unsafe_url"


class NotFound(OnelaneError):
    """The resource does not exist, or is not the caller's."""

    code = "not_found"


class Conflict(OnelaneError):
    """The state of the resource does not allow this."""

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
    """Another call has taken over the idempotency key, because this one seemed dead; it must write nothing."""

    code = "idempotency_in_progress"


class AccountSuspended(Conflict):
    code = "account_suspended"


class StaleVersion(OnelaneError):
    """The resource has changed since the caller read it."""

    code = "stale_version"


class DraftChanged(StaleVersion):
    """The draft was edited after the step had loaded it."""

    code = "publish_failed"


class LimitReached(OnelaneError):
    """A limit of the account refuses the job; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(LimitReached):
    code = "queue_full"


class QuotaExhausted(LimitReached):
    code = "quota_exhausted"


class Unavailable(OnelaneError):
    """The database (or Redis, for a call that needs it) is unreachable; nothing was accepted."""

    code = "unavailable"


class NotWritable(Unavailable):
    """The database answers and takes no writes; `reason` is `disk_full`, `read_only` or `disk_failed`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)
        self.message, self.reason = message, reason

    def __str__(self) -> str:
        return self.message


class OwnershipLost(OnelaneError):
    """A write was refused, because the attempt no longer owns its step."""

    code = "lost"


class SecretsError(OnelaneError):
    """A sealed secret cannot be opened with the configured keys."""

    code = "internal"


def in_one_line(error: BaseException) -> str:
    """The error without line breaks: PostgreSQL's hints come on separate lines, which break a log record apart."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
