"""Account ids and limits.

An account id is opaque: 1–200 Unicode characters without any normalization, so ``a.b``, ``a_b``, ``A_B`` and ``a/b``
are four different accounts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NewType

from .errors import InvalidAccount

AccountId = NewType("AccountId", str)

MAX_ACCOUNT_CHARACTERS = 200


def parse_account(value: str) -> AccountId:
    """The id, unchanged, after a check of its form.

    Raises:
        InvalidAccount: empty, too long, ``.`` or ``..``, or with a control character or a lone surrogate.
    """
    if not value:
        raise InvalidAccount("account: it is empty; give 1 to 200 characters")
    if len(value) > MAX_ACCOUNT_CHARACTERS:
        raise InvalidAccount(f"account: it has {len(value)} characters; at most {MAX_ACCOUNT_CHARACTERS} are allowed")
    if value in (".", ".."):
        raise InvalidAccount(f"account: {value!r} is not allowed, because it means a folder in a path")
    for position, character in enumerate(value):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise InvalidAccount(
                f"account: character {position + 1} is U+{ord(character):04X}, a control character or surrogate; "
                "these are not allowed"
            )
    return AccountId(value)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` starts in `per` seconds."""

    limit: int
    per: float


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The limits of one tenant queue."""

    concurrency: int = 1
    rate: Rate | None = None
    ordering: Literal["relaxed", "strict"] = "relaxed"


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """An account's limits; the defaults apply to an account that was not configured."""

    #: 1 to 100; an account of weight 2 gets twice the time of one of weight 1 when both have waiting work.
    weight: int = 1
    #: The most running steps over all lanes; None: only the lanes' limits apply.
    account_concurrency: int | None = None
    #: The most jobs that are accepted and not started; None: unlimited.
    max_waiting: int | None = None
    #: The most jobs accepted in a UTC day; None: unlimited.
    daily_quota: int | None = None
    lanes: Mapping[str, LaneLimits] = field(default_factory=lambda: MappingProxyType({}))

    def lane(self, name: str) -> LaneLimits:
        return self.lanes.get(name, LaneLimits())

    def as_json(self) -> dict[str, Any]:
        """The limits as API and database show them."""
        return {
            "weight": self.weight,
            "account_concurrency": self.account_concurrency,
            "max_waiting": self.max_waiting,
            "daily_quota": self.daily_quota,
            "lanes": {
                name: {
                    "concurrency": each.concurrency,
                    "rate": {"limit": each.rate.limit, "per": each.rate.per} if each.rate else None,
                    "ordering": each.ordering,
                }
                for name, each in self.lanes.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> AccountLimits:
        """The inverse of `as_json`; absent values have their defaults."""
        if not data:
            return cls()
        lanes = {}
        for name, each in (data.get("lanes") or {}).items():
            rate = each.get("rate")
            lanes[name] = LaneLimits(
                concurrency=each.get("concurrency", 1),
                rate=Rate(rate["limit"], rate["per"]) if rate else None,
                ordering=each.get("ordering", "relaxed"),
            )
        return cls(
            weight=data.get("weight", 1),
            account_concurrency=data.get("account_concurrency"),
            max_waiting=data.get("max_waiting"),
            daily_quota=data.get("daily_quota"),
            lanes=MappingProxyType(lanes),
        )
