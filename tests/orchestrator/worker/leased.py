"""What an execution uses of a leased message, without a queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WORKER = "this-one"


@dataclass
class Leased:
    """What `Execution` uses of a leased message."""

    lane: str = "quick"
    slot: int = 0
    #: Whether Redis knows of the lease.
    is_known: bool = True
    rescheduled: list[float] = field(default_factory=list)

    def reschedule(self, delay_seconds: float) -> bool:
        self.rescheduled.append(delay_seconds)
        return self.is_known

    def asdict(self) -> dict[str, Any]:
        return {}
