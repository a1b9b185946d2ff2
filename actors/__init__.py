"""What jobs do: pipelines, steps, and their clients.

This package imports no Redis, SQL or HTTP server (checked by import-linter). The names below are public, and so are the
tools for publishers in `actors.pages` and `actors.markdown`. A name is imported at its first use, so that importing one
small module does not load all others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Not at its first use, because its module has the same name.
from .step import step

if TYPE_CHECKING:
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
    from .context import StepContext
    from .errors import (
        ContentBlocked,
        LoginRequired,
        OutcomeUnknown,
        OutputTruncated,
        ProviderError,
        ProviderRefused,
        ProviderTimeout,
        PublishFailed,
        PublishRefused,
        ReadbackMismatch,
        StepError,
        UnsafeUrl,
    )
    from .pipeline import Pipeline
    from .port import Credentials, Draft, Publication, SessionState, Target
    from .signals import ProviderBusy, Reject, Retry, Snooze

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
    "PublishRefused",
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

#: The modules of the public names.
_MODULES = {
    "clients.publishers.base": "AddsImages Image Post PublicPost Publisher PublisherClients Removes Updates "
    "capabilities",
    "context": "StepContext",
    "errors": "ContentBlocked LoginRequired OutcomeUnknown OutputTruncated ProviderError ProviderRefused "
    "ProviderTimeout PublishFailed PublishRefused ReadbackMismatch StepError UnsafeUrl",
    "pipeline": "Pipeline",
    "port": "Credentials Draft Publication SessionState Target",
    "signals": "ProviderBusy Reject Retry Snooze",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
