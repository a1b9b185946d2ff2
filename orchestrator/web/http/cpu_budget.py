"""A limit on the CPU time for parsing one request.

Every parser is linear and its input is bounded, so no valid request reaches the limit. It bounds the damage of a parser
that is slower than thought. Python code checks the budget while it runs; the C code in between (the JSON scanner,
pydantic) cannot be interrupted, and is checked right after.
"""

from __future__ import annotations

import time


class CpuBudgetExceeded(Exception):
    """The input took more CPU than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request takes more than {seconds:g} s of CPU to check; send it in smaller parts")


class CpuBudget:
    """CPU seconds of the thread that creates it; call `check` on the same thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.thread_time() + seconds

    def check(self) -> None:
        """Raise `CpuBudgetExceeded` once the budget is used up."""
        if time.thread_time() > self._until:
            raise CpuBudgetExceeded(self._seconds)
