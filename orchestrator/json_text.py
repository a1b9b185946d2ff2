"""JSON as onelane writes it: compact, in UTF-8, with times as RFC 3339 in UTC."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any


def to_json(value: Any) -> bytes:
    """Compact UTF-8; datetimes as RFC 3339 in UTC."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_other).encode()


def time_text(value: datetime) -> str:
    """RFC 3339 in UTC, e.g. ``2026-11-21T11:30:00.250000Z``."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _other(value: Any) -> Any:
    if isinstance(value, datetime):
        return time_text(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
