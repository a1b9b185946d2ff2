"""The errors that need no client library: the base class, and the embedded server's. `errors` has the tree."""

from __future__ import annotations


class QueueError(Exception):
    """Base of all errors of the broker."""


class EmbeddedServerFailed(QueueError):
    """The embedded server did not start, or another process holds its data directory."""
