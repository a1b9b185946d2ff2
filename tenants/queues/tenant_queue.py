"""The administration of tenant queues: one object with everything that callers do beside sending messages.

Invariants: nothing here runs for each message; each call is one bounded script a lane, or a page of one; times are UTC
datetimes made from the server's clock.
"""

from __future__ import annotations

from .checking import Checks
from .queue_loads import QueueLoads
from .queue_removal import QueueRemoval
from .queue_settings import QueueSettings


class TenantQueues(QueueLoads, QueueSettings, QueueRemoval, Checks):
    """The tenant queues of a namespace. Thread-safe; every method may raise Dramatiq's `ConnectionClosed`."""

    def generation(self) -> int | None:
        """The number last set; None if the server has lost it, and so perhaps all its data."""
        raw = self._server.command("GET", self._keys.generation)
        try:
            return None if raw is None else int(raw)
        except ValueError:
            return None

    def set_generation(self, number: int, *, only_if_there: bool = False) -> bool:
        """Sets it; with `only_if_there` not on a server that has lost the one before: then False."""
        condition = ("XX",) if only_if_there else ()
        return self._server.command("SET", self._keys.generation, number, *condition) is not None
