"""What jobs do: pipelines, steps, and the clients that they speak through.

This package knows no Redis, SQL or HTTP server; a test (import-linter) keeps it so. The names below are public, and so
are the tools for publishers in `actors.pages` and `actors.markdown`.
"""

from .clients.publishers.base import (
    AddsImages,
    Image,
    Post,
    PublicPost,
    Publisher,
    PublisherClients,
    Removes,
    Updates,
    capabilities,
)
from .context import Credentials, Draft, Publication, SessionState, StepContext, Target
from .errors import (
    ContentBlocked,
    LoginRequired,
    OutcomeUnknown,
    OutputTruncated,
    ProviderError,
    ProviderRefused,
    ProviderTimeout,
    PublishFailed,
    ReadbackMismatch,
    StepError,
    UnsafeUrl,
)
from .pipeline import Pipeline
from .signals import ProviderBusy, Reject, Retry, Snooze
from .step import step

__all__ = [
    "AddsImages",
    "ContentBlocked",
    "Credentials",
    "Draft",
    "Image",
    "LoginRequired",
    "OutcomeUnknown",
    "OutputTruncated",
    "Pipeline",
    "Post",
    "ProviderBusy",
    "ProviderError",
    "ProviderRefused",
    "ProviderTimeout",
    "PublicPost",
    "Publication",
    "PublishFailed",
    "Publisher",
    "PublisherClients",
    "ReadbackMismatch",
    "Reject",
    "Removes",
    "Retry",
    "SessionState",
    "Snooze",
    "StepContext",
    "StepError",
    "Target",
    "UnsafeUrl",
    "Updates",
    "capabilities",
    "step",
]
