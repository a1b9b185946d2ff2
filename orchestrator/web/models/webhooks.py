"""Bodies about webhooks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Answer, Id, Time
from .jobs import JobError, JobStatus, Outcome, StepError


class DeliveryAttempt(Answer):
    """One try to call the receiver."""

    number: int
    started_at: Time
    finished_at: Time | None
    seconds: float | None = Field(description="How long it took; null while it is under way.")
    outcome: Outcome | None = Field(description="Null while it is under way.")
    status_code: int | None = Field(description="What the receiver answered; null when it did not.")
    error: StepError | None


class DeliveryView(Answer):
    """The call of a job's `callback_url` at one of its ends. It is itself a job, of the pipeline `webhook`."""

    id: Id = Field(description="The `webhook-id` of every try.")
    type: Literal["job.ended"]
    job_status: JobStatus = Field(description="How the job ended.")
    url: str
    status: JobStatus = Field(description="`completed` once the receiver took it, `failed` once it was given up.")
    superseded: bool = Field(
        description="The job went on before the receiver took this; its next end is delivered instead."
    )
    created_at: Time
    finished_at: Time | None
    next_attempt_at: Time | None
    error: JobError | None
    dead_letter_id: str | None = Field(description="The open dead letter, once the delivery was given up.")
    attempts: list[DeliveryAttempt]


class WebhookSecretView(Answer):
    """What can be read of a secret."""

    created_at: Time
    previous_until: Time | None = Field(description="Until then the secret before this one signs too.")


class NewWebhookSecretView(WebhookSecretView):
    """A secret that was just made."""

    secret: str = Field(description="`whsec_…`, for a Standard Webhooks library. It is shown this once.")
