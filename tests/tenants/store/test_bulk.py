"""Many rows at once stand in the tables as the same rows do that were inserted few at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select

from tenants.database.models import Event, Job, Step
from tenants.database.transactions import Database
from tenants.store.accounts.accounts import ensure_account
from tenants.store.bulk import MANY
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs.create import JobPlan, StepPlan

STEPS = (StepPlan("generate", "generate", True, 3), StepPlan("publish", "publish", False, 1))
LATER = datetime.now(UTC).replace(microsecond=120_000) + timedelta(days=1)
ODD_PLANS: list[dict[str, Any]] = [
    {"input": {"text": "\u00e4 \u2028 \U0001f600 ' \" \\ ; --", "deep": {"list": [1, 2.5, None, True, {"a": []}]}}},
    {"input": {}, "run_at": LATER, "expires_in": 60.5, "deadline": 1.25},
    {"input": {"n": 2**53}, "tags": ("a", "\u00df"), "unique_key": "only one", "priority": 0},
    {"input": {}, "callback_url": "https://example.com/?a=b&c=%20", "approval": True},
]


def rows_of(connection: Connection, account: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Jobs, steps and events of the account, without what differs between any two jobs."""

    def plain(table: Any, *left_out: str) -> list[Any]:
        order = (table.c.sequence, table.c.position) if table is Step.__table__ else (table.c.seq,)
        found = connection.execute(select(table).where(table.c.account == account).order_by(*order)).mappings()
        dated = ("run_at", "expires_at", "due_at") if account != "late" else ()
        known = {"id", "job_id", "seq", "sequence", "account", "created_at", "queued_at", *left_out, *dated}
        return [{name: value for name, value in row.items() if name not in known} for row in found]

    return plain(Job.__table__), plain(Step.__table__), plain(Event.__table__)


def test_rows_are_the_same_few_or_many_at_once(database: Database) -> None:
    def make(connection: Connection, account: str, number: int) -> None:
        made = 0
        while made < len(ODD_PLANS) * MANY:
            wanted = [
                JobPlan(
                    pipeline="blog", steps=STEPS, **odd | ({"unique_key": f"key {at}"} if "unique_key" in odd else {})
                )
                for at in range(made, made + number)
                for odd in [ODD_PLANS[at % len(ODD_PLANS)]]
            ]
            create_jobs.create(connection, account, wanted)
            made += number

    for account, number in (("few", 1), ("many", 2 * MANY)):
        database.write(lambda connection, a=account: ensure_account(connection, a))  # type: ignore[misc]
        database.write(lambda connection, a=account, n=number: make(connection, a, n))  # type: ignore[misc]
    few, many = (database.read(lambda connection, a=a: rows_of(connection, a)) for a in ("few", "many"))  # type: ignore[misc]
    assert few[0] == many[0]
    assert few[1] == many[1]
    assert few[2] == many[2]
    assert len(few[0]) == len(ODD_PLANS) * MANY


def test_each_row_of_many_gets_its_own_time_and_number(database: Database) -> None:
    plans = [
        JobPlan(pipeline="blog", input={}, steps=STEPS, run_at=LATER + timedelta(hours=n)) for n in range(2 * MANY)
    ]
    made = database.write(lambda connection: create_jobs.create(connection, "acme", plans))
    jobs = Job.__table__
    rows = database.read(lambda c: c.execute(select(jobs.c.id, jobs.c.seq, jobs.c.run_at).order_by(jobs.c.seq)).all())
    assert [(row.id, row.run_at) for row in rows] == [(plan.id, plan.run_at) for plan in plans]
    assert {row.id: row.seq for row in rows} == {rows.job["id"]: rows.job["seq"] for rows in made.jobs}


@pytest.mark.parametrize("number", [1, MANY, 3 * MANY])
def test_what_is_made_second_is_numbered_after_what_was_first(database: Database, number: int) -> None:
    def sequences() -> list[int]:
        plans = [JobPlan(pipeline="blog", input={}, steps=STEPS) for _ in range(number)]
        made = database.write(lambda connection: create_jobs.create(connection, "acme", plans))
        return [int(rows.job["seq"]) for rows in made.jobs]

    first, second = sequences(), sequences()
    assert first == sorted(set(first))
    assert second == sorted(set(second))
    assert first[-1] < second[0]
