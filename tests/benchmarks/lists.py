"""Every list with every filter among a million jobs: `python -m tests.benchmarks.lists [--jobs N] [--sqlite]`.

Fills PostgreSQL by COPY and prints, for the first page of each list, its time (the median of five), the rows that went
into the greatest sort, those that were read and thrown away, and the plan's nodes. A table that is gone through from
end to end, or a sort of much of it, is marked with `!!` and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from tenants.database.transactions import Database
from tenants.migrations import migrate
from tests.tenants.database.plans import plans_of
from tests.tenants.store.filled import fill, lists

from .whole_path import database_of, postgres

#: Of the table: what has one prefix and is old may be sorted, by its index alone; more is a lost index.
FEW = 0.2
#: That hold little here.
SMALL_TABLES = {"accounts", "schedules", "publications", "api_keys"}


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        if given.sqlite:
            return _run(f"sqlite:///{folder}/onelane.db", given.jobs, given.accounts)
        with postgres() as server:
            url = database_of(server, "lists").replace("postgresql://", "postgresql+psycopg://", 1)
            return _run(url, given.jobs, given.accounts)


def _run(url: str, jobs: int, accounts: int) -> int:
    database = Database(url)
    migrate(database)
    began = time.perf_counter()
    filled = fill(database, jobs=jobs, accounts=accounts)
    took = time.perf_counter() - began
    print(f"{jobs:,} jobs of {accounts:,} accounts on {database.dialect}, filled in {took:.0f} s\n", flush=True)
    print(f"{'ms':>8} {'sorted':>8} {'discarded':>9}  list")
    bad = 0
    for name, ask in lists(filled).items():
        found = [_timed(database, ask) for _ in range(5)]
        plans = plans_of(database, ask)
        scanned = {table for plan in plans for table in plan.scanned} - SMALL_TABLES
        most, thrown = max(plan.sorted_rows for plan in plans), sum(plan.discarded_rows for plan in plans)
        wrong = bool(scanned) or max(most, thrown) > FEW * jobs
        bad += wrong
        mark = "!!" if wrong else "  "
        print(
            f"{statistics.median(found) * 1000:8.1f} {most:8,} {thrown:9,} {mark} {name}: {', '.join(plans[-1].nodes)}"
        )
    database.close()
    print(f"\n{bad} of {len(lists(filled))} lists go through a table or sort it")
    return 1 if bad else 0


def _timed(database: Database, ask: Callable[[Connection], Any]) -> float:
    began = time.perf_counter()
    database.read(ask)
    return time.perf_counter() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=5_000)
    parser.add_argument("--sqlite", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
