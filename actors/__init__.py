"""What jobs do: pipelines, steps, and the clients that they speak through.

This package knows no Redis, SQL or HTTP server; a test (import-linter) keeps it so. The names below are public.
"""

from .clients.publishers.base import Publisher
from .context import Draft, Publication, StepContext
from .pipeline import Pipeline
from .signals import ProviderBusy, Reject, Retry, Snooze
from .step import step

__all__ = [
    "Draft",
    "Pipeline",
    "ProviderBusy",
    "Publication",
    "Publisher",
    "Reject",
    "Retry",
    "Snooze",
    "StepContext",
    "step",
]
