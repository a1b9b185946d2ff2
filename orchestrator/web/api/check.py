"""A check of the broker's invariants on request; the gauges' loop does it all the time."""

from __future__ import annotations

from pydantic import Field

from ..http.auth import Access
from ..http.models import Answer, Nothing, Query
from ..http.routing import Call, Reply, Route

#: Violations that an answer names.
SHOWN = 100


class ViolationView(Answer):
    """An invariant that did not hold, and that was repaired."""

    lane: str
    kind: str
    account: str | None
    detail: str


class Checked(Answer):
    """What a check of every tenant queue and lease found."""

    lanes: list[str] = Field(description="The lanes that were checked.")
    violations: int = Field(description="How many invariants did not hold.")
    items: list[ViolationView] = Field(description=f"The first {SHOWN} of them.")


def check(call: Call[Query, Nothing]) -> Reply:
    lanes = sorted(call.service.lanes())
    found = [each for lane in lanes for each in call.service.broker.queues_admin.check(lane)]
    items = [
        {"lane": each.lane, "kind": each.kind, "account": each.account, "detail": each.detail} for each in found[:SHOWN]
    ]
    answer = {"lanes": lanes, "violations": len(found), "items": items}
    return Reply(answer, audit={"after": {"violations": len(found)}})


ROUTES = [
    Route(
        "POST",
        "/v1/admin/queues:check",
        check,
        "Check the broker's invariants",
        {200: Checked},
        tag="Queues",
        access=Access.ADMIN,
        description=(
            "Every slot is a lease, every message in exactly one place, every account in exactly one list. "
            "Violations are repaired and reported."
        ),
    ),
]
