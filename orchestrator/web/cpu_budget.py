"""A bound on the CPU that the input of one request may cost.

Every parser of a request is linear, and its input is bounded, so the budget is met by no honest request. It limits what
a fault in that reasoning can cost: Python code checks the budget while it works; the C code in between (the JSON
scanner, pydantic) cannot be interrupted, and is checked right after.
"""

from __future__ import annotations

import time


class CpuBudgetExceeded(Exception):
    """The input took more CPU than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request takes more than {seconds:g} s of CPU to check; send it in smaller parts")


class CpuBudget:
    """CPU seconds of the thread that makes it; `check` belongs on the same thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.thread_time() + seconds

    def check(self) -> None:
        """Raise `CpuBudgetExceeded` once the budget is used up."""
        if time.thread_time() > self._until:
            raise CpuBudgetExceeded(self._seconds)
