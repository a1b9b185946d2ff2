"""The store without Redis."""

from __future__ import annotations

from typing import Any


class NoRedis:
    """A dispatcher whose Redis is away: SQL alone decides here."""

    def send(self, steps: Any) -> bool:
        return False

    def withdraw(self, steps: Any) -> None:
        return None
