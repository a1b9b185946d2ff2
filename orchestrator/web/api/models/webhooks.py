"""Webhooks: deliveries and secrets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...http.models import Answer, Id, Time
from .jobs import JobError, JobStatus, Outcome, StepError


class DeliveryAttempt(Answer):
    """One attempt to call the receiver."""

    number: int
    started_at: Time
    finished_at: Time | None
    seconds: float | None = Field(description="Its duration; null while it is running.")
    outcome: Outcome | None = Field(description="Null while it is running.")
    status_code: int | None = Field(description="The receiver's answer; null without one.")
    error: StepError | None


class DeliveryView(Answer):
    """The call of a job's `callback_url` at one of its ends. It is itself a job, of the pipeline `webhook`."""

    id: Id = Field(description="The `webhook-id` of every attempt.")
    type: Literal["job.ended"]
    job_status: JobStatus = Field(description="How the job ended.")
    url: str
    status: JobStatus = Field(description="`completed` once the receiver accepted it, `failed` after the last attempt.")
    superseded: bool = Field(
        description="The job was continued before the receiver accepted this; its next end is delivered instead."
    )
    created_at: Time
    finished_at: Time | None
    next_attempt_at: Time | None
    error: JobError | None
    dead_letter_id: str | None = Field(description="The open dead letter, if the delivery failed.")
    attempts: list[DeliveryAttempt]


class WebhookSecretView(Answer):
    """When a secret was created; the secret itself is never shown again."""

    created_at: Time
    previous_until: Time | None = Field(description="Until then the previous secret signs too.")


class NewWebhookSecretView(WebhookSecretView):
    """A new secret."""

    secret: str = Field(description="`whsec_…`, for a Standard Webhooks library. It is shown only in this answer.")
