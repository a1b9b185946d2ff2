"""The tables, imported from here. Times are the database's, ids UUIDv7 strings, sealed columns hold ciphertext only.

State and counters change only by the guarded single UPDATEs of `tenants.store`, never through an ORM attribute:
read-modify-write from several threads loses updates. `docs/states.md` draws the states.
"""

from .account_models import Account, ApiKey, Circuit, Erasure, Lane, Session, TenantQueue, Usage, WebhookSecret
from .job_models import Attempt, Event, Fire, Job, JobTag, Schedule, Step
from .model_base import NAMING, Model, derived_id, new_id
from .operation_models import (
    Alert,
    AlertHour,
    Audit,
    ControlPlane,
    DeadLetter,
    IdempotencyKey,
    Meta,
    ProviderBackoff,
    Worker,
)
from .publication_models import Artifact, Draft, Publication

__all__ = [
    "NAMING",
    "Account",
    "Alert",
    "AlertHour",
    "ApiKey",
    "Artifact",
    "Attempt",
    "Audit",
    "Circuit",
    "ControlPlane",
    "DeadLetter",
    "Draft",
    "Erasure",
    "Event",
    "Fire",
    "IdempotencyKey",
    "Job",
    "JobTag",
    "Lane",
    "Meta",
    "Model",
    "ProviderBackoff",
    "Publication",
    "Schedule",
    "Session",
    "Step",
    "TenantQueue",
    "Usage",
    "WebhookSecret",
    "Worker",
    "derived_id",
    "new_id",
]
