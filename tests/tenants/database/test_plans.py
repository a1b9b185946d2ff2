"""What the loops ask all the time goes by an index, on both databases: none of it reads a whole table of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from tenants.store import dispatch, workers
from tenants.store.accounts import circuits
from tenants.store.dispatch import Dispatch
from tenants.store.jobs import explain
from tests.tenants.conftest import Bench
from tests.tenants.database.plans import plans_of

LAST = Dispatch("an id", "acme", "blog", "generate", "generate", 5, 3, None)
ASKED: dict[str, Callable[[Connection], Any]] = {
    "what was not dispatched": lambda c: dispatch.undispatched(c, horizon_seconds=60, limit=10),
    "the first page of a rebuild": lambda c: dispatch.waiting_after(c, None, horizon_seconds=60, limit=10),
    "a following page of it": lambda c: dispatch.waiting_after(c, LAST, horizon_seconds=60, limit=10),
    "steps of removed messages": lambda c: dispatch.waiting_of(c, ["a", "b"], horizon_seconds=60),
    "wanted messages": lambda c: dispatch.wanted_messages(c, ["a", "b"]),
    "open circuits": circuits.open_by_lane,
    "steps of dead workers": workers.abandoned_steps,
    "steps of a worker to be cancelled": lambda c: workers.cancelled_steps(c, "w1"),
    "what workers run": lambda c: workers.running(c, ["w1", "w2"]),
    "what an account runs": lambda c: explain._running(c, "acme"),
}


@pytest.mark.parametrize("what", ASKED)
def test_no_whole_table_of_steps_is_read(bench: Bench, what: str) -> None:
    bench.make()
    for plan in plans_of(bench.database, ASKED[what]):
        assert "steps" not in plan.scanned
        assert not any(node.split() == ["SCAN", "steps"] for node in plan.nodes), plan.nodes
