"""Webhooks. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Literal, TypedDict

from .jobs import JobError, JobStatus, Outcome, StepError


class DeliveryAttempt(TypedDict):
    """One try to call the receiver."""

    number: int
    started_at: str
    finished_at: str | None
    seconds: float | None
    """How long it took; null while it is under way."""
    outcome: Outcome | None
    """Null while it is under way."""
    status_code: int | None
    """What the receiver answered; null when it did not."""
    error: StepError | None


class Delivery(TypedDict):
    """The call of a job's `callback_url` at one of its ends. It is itself a job, of the pipeline `webhook`."""

    id: str
    """The `webhook-id` of every try."""
    type: Literal["job.ended"]
    job_status: JobStatus
    """How the job ended."""
    url: str
    status: JobStatus
    """`completed` once the receiver took it, `failed` once it was given up."""
    superseded: bool
    """The job went on before the receiver took this; its next end is delivered instead."""
    created_at: str
    finished_at: str | None
    next_attempt_at: str | None
    error: JobError | None
    dead_letter_id: str | None
    """The open dead letter, once the delivery was given up."""
    attempts: list[DeliveryAttempt]


class WebhookSecret(TypedDict):
    """What can be read of a secret."""

    created_at: str
    previous_until: str | None
    """Until then the secret before this one signs too."""


class NewWebhookSecret(WebhookSecret):
    """A secret that was just made."""

    secret: str
    """`whsec_…`, for a Standard Webhooks library. It is shown this once."""
