"""An account's usage by day."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ...http.models import Answer, Query
from .accounts import UsageDay


def _day(value: object) -> object:
    """Accept only ``2026-11-21``: pydantic also accepts other forms, such as seconds."""
    if isinstance(value, str) and (len(value) != 10 or not value.isascii()):
        raise ValueError("it is not a day such as 2026-11-21")
    return value


def _in_bounds(value: date) -> date:
    if not 2000 <= value.year <= 2199:
        raise ValueError("it is not between 2000-01-01 and 2199-12-31")
    return value


Day = Annotated[
    date,
    BeforeValidator(_day),
    AfterValidator(_in_bounds),
    WithJsonSchema({"type": "string", "format": "date", "pattern": r"^2[01]\d\d-"}),
]


class UsageQuery(Query):
    """The days, both included."""

    first: Day | None = Field(default=None, alias="from")
    """The first UTC day; the default is 29 days before `to`."""
    to: Day | None = None
    """The last UTC day; the default is today."""


class UsageTotal(Answer):
    """Sums over the days."""

    jobs: int = Field(description="Jobs accepted.")
    seconds: float = Field(description="Seconds that attempts of steps took.")
    tokens: int = Field(description="Tokens in and out, as the models' answers reported them.")
    posts: int = Field(description="Posts that were confirmed.")
    bytes: int = Field(description="Bytes of stored files.")


class UsageHistory(Answer):
    """The account's usage."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "from": "2026-11-20",
                    "to": "2026-11-21",
                    "items": [
                        {"day": "2026-11-21", "jobs": 3, "seconds": 41.5, "tokens": 5210, "posts": 3, "bytes": 81234}
                    ],
                    "total": {"jobs": 3, "seconds": 41.5, "tokens": 5210, "posts": 3, "bytes": 81234},
                }
            ]
        }
    )

    first: Day = Field(alias="from")
    to: Day
    items: list[UsageDay] = Field(description="Days with usage, newest first.")
    total: UsageTotal
