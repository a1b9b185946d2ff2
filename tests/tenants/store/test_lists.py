"""Every list with every filter is read by an index, and nothing is sorted that grows with the table.

`python -m tests.benchmarks.lists` shows the same at a million jobs, with times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tenants.database.transactions import Database
from tenants.store.jobs import lists as job_lists
from tenants.store.jobs.lists import JobFilter
from tests.tenants.database.plans import plans_of
from tests.tenants.store.filled import BEGAN, Filled, fill, lists

JOBS = 12_000
#: More than any list here needs, and far less than there are: a lost index shows as thousands.
FEW = 1_000


@pytest.fixture
def filled(migrated_url: str) -> tuple[Database, Filled]:
    database = Database(migrated_url)
    return database, fill(database, jobs=JOBS, accounts=300)


def test_no_list_goes_through_a_table_or_sorts_it(
    filled: tuple[Database, Filled], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As few among these rows as the real numbers are among a million.
    monkeypatch.setattr(job_lists, "RECENT_JOBS", 400)
    monkeypatch.setattr(job_lists, "PREFIX_MATCHES", 100)
    database, rows = filled
    faults = []
    for name, ask in lists(rows).items():
        for plan in plans_of(database, ask):
            large = set(plan.scanned) & {"jobs", "job_tags", "drafts", "dead_letters", "audit"}
            if large or plan.sorted_rows > FEW or plan.discarded_rows > FEW:
                faults.append(f"{name}: {plan}")
    database.close()
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(("near", "most"), [(10_000, 2_000), (500, 300)])
def test_filters_find_what_they_should(
    filled: tuple[Database, Filled], near: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ways by index against the plain meaning of each filter."""
    monkeypatch.setattr(job_lists, "RECENT_JOBS", near)
    monkeypatch.setattr(job_lists, "PREFIX_MATCHES", most)
    database, rows = filled
    everything = list(_all(database, JobFilter()))
    assert len(everything) == JOBS
    assert everything == sorted(everything, key=lambda row: row["seq"], reverse=True)
    middle = BEGAN + timedelta(seconds=JOBS // 2)
    one = rows.account(7919)
    filters: list[tuple[JobFilter, Callable[[dict[str, Any]], bool]]] = [
        (JobFilter(account=one), lambda row: row["account"] == one),
        (JobFilter(tag="spring", status="failed"), lambda row: "spring" in row["tags"] and row["status"] == "failed"),
        (JobFilter(created_after=middle), lambda row: row["created_at"] > middle),
        (JobFilter(created_before=middle), lambda row: row["created_at"] < middle),
        (JobFilter(q="order-11"), lambda row: any(tag.startswith("order-11") for tag in row["tags"])),
        (JobFilter(q="key-11"), lambda row: (row["unique_key"] or "").startswith("key-11")),
        (JobFilter(q=rows.some_id[:11]), lambda row: row["id"].startswith(rows.some_id[:11])),
        (JobFilter(q="order-", status="failed"), lambda row: row["status"] == "failed" and _begins(row, "order-")),
        (JobFilter(q="order-1", account=one), lambda row: row["account"] == one and _begins(row, "order-1")),
    ]
    for chosen, fits in filters:
        wanted = [row["id"] for row in everything if fits(row)]
        assert [row["id"] for row in _all(database, chosen)] == wanted, chosen
        assert wanted, chosen
    database.close()


def _begins(row: dict[str, Any], prefix: str) -> bool:
    return any(tag.startswith(prefix) for tag in row["tags"])


def _all(database: Database, chosen: JobFilter) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = database.read(lambda c, at=cursor: job_lists.page(c, chosen, limit=200, cursor=at))  # type: ignore[misc]
        found += [dict(row) for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            return found
