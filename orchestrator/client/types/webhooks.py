"""Webhooks. Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."""

from __future__ import annotations

from typing import Literal, TypedDict

from .jobs import JobError, JobStatus, Outcome, StepError


class DeliveryAttempt(TypedDict):
    """One attempt to call the receiver."""

    number: int
    started_at: str
    finished_at: str | None
    seconds: float | None
    """Its duration; null while it is running."""
    outcome: Outcome | None
    """Null while it is running."""
    status_code: int | None
    """The receiver's answer; null without one."""
    error: StepError | None


class Delivery(TypedDict):
    """The call of a job's `callback_url` at one of its ends. It is itself a job, of the pipeline `webhook`."""

    id: str
    """The `webhook-id` of every attempt."""
    type: Literal["job.ended"]
    job_status: JobStatus
    """How the job ended."""
    url: str
    status: JobStatus
    """`completed` once the receiver accepted it, `failed` after the last attempt."""
    superseded: bool
    """The job was continued before the receiver accepted this; its next end is delivered instead."""
    created_at: str
    finished_at: str | None
    next_attempt_at: str | None
    error: JobError | None
    dead_letter_id: str | None
    """The open dead letter, if the delivery failed."""
    attempts: list[DeliveryAttempt]


class WebhookSecret(TypedDict):
    """When a secret was created; the secret itself is never shown again."""

    created_at: str
    previous_until: str | None
    """Until then the previous secret signs too."""


class NewWebhookSecret(WebhookSecret):
    """A new secret."""

    secret: str
    """`whsec_…`, for a Standard Webhooks library. It is shown only in this answer."""
