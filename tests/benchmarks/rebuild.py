"""Redis emptied with 100,000 waiting jobs: `python -m tests.benchmarks.rebuild`.

On SQLite and on PostgreSQL: jobs of mixed priorities over many accounts, some with settings and pauses; then FLUSHALL,
and the clock runs until the reconciler, which notices the loss by itself, has everything back. Afterwards every tenant
queue is compared with SQL, entry by entry: nothing lost, nothing twice, order and priority kept, settings and pauses as
they were. Ends with status 1 when anything differs or the bar is missed. Prints a table, and writes `rebuild.json`
beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, select, update

from orchestrator.loops.reconciler import Reconciler
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from tenants.database.models import Account, Step
from tenants.migrations import migrate
from tenants.queues import EmbeddedValkey
from tenants.secrets.sealing import new_key
from tenants.store.accounts import queues
from tenants.store.jobs.create import JobPlan

from .whole_path import database_of, postgres

LANE = "bench"
BATCH = 500
#: DESIGN's bar.
BAR_SECONDS = 30.0
LIMITS = {"weight": 3, "lanes": {LANE: {"concurrency": 4, "rate": {"limit": 10, "per": 60}}}}


def names_of(count: int) -> list[str]:
    return [f"account-{number}" for number in range(count)]


def fill(runtime: Runtime, jobs: int, accounts: Sequence[str], chance: random.Random) -> None:
    """Waiting jobs, in batches as the API takes them."""
    for start in range(0, jobs, BATCH):
        account = accounts[start // BATCH % len(accounts)]
        size = min(BATCH, jobs - start)
        runtime.jobs.create_many(account, [JobPlan("one", {}, priority=chance.randrange(10)) for _ in range(size)])


def configure(runtime: Runtime, accounts: Sequence[str]) -> None:
    """Every fourth account has limits, every tenth is paused, every tenth and one has a paused queue."""

    def work(connection: Connection) -> None:
        table = Account.__table__
        connection.execute(update(table).where(table.c.id.in_(accounts[::4])).values(limits=LIMITS))
        connection.execute(update(table).where(table.c.id.in_(accounts[::10])).values(status="paused"))
        for account in accounts[1::10]:
            queues.set_paused(connection, LANE, account, True)

    runtime.database.write(work)
    runtime.settings_sync.sync_all()


def order_in_sql(runtime: Runtime) -> dict[str, list[str]]:
    steps = Step.__table__
    statement = (
        select(steps.c.account, steps.c.id)
        .where(steps.c.status.in_(("queued", "retrying")))
        .order_by(steps.c.account, steps.c.priority, steps.c.sequence)
    )
    found: dict[str, list[str]] = {}
    for row in runtime.database.read(lambda connection: connection.execute(statement).all()):
        found.setdefault(row.account, []).append(row.id)
    return found


def order_in_redis(runtime: Runtime) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for page in runtime.broker.queues_admin.entries(LANE):
        found.setdefault(str(page.account), []).extend(page.ids)
    return found


def settings_in_redis(runtime: Runtime, accounts: Sequence[str]) -> dict[str, Any]:
    admin = runtime.broker.queues_admin
    described = {account: admin.describe(LANE, account) for account in accounts}
    return {name: (each.limits, each.paused) for name, each in described.items() if each is not None}


def measure(database_url: str, jobs: int, accounts: int, seed: int) -> dict[str, Any]:
    names = names_of(accounts)
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder) / "valkey") as valkey:
        runtime = Runtime(
            Settings(
                database_url=database_url,
                redis_url=valkey.url,
                data_dir=Path(folder),
                secret_key=SecretStr(new_key()),
                pipelines=("tests.benchmarks.pipelines",),
            )
        )
        try:
            migrate(runtime.database)
            Reconciler(runtime).run_once()
            began = time.perf_counter()
            fill(runtime, jobs, names, random.Random(seed))
            filled = time.perf_counter() - began
            configure(runtime, names)
            settings = settings_in_redis(runtime, names)
            wanted = order_in_sql(runtime)
            runtime.broker.client.flushall()
            began = time.perf_counter()
            Reconciler(runtime).run_once()
            took = time.perf_counter() - began
            again = Reconciler(runtime).reconcile()
            return {
                "jobs": sum(map(len, wanted.values())),
                "accounts": len(wanted),
                "made_per_second": round(jobs / filled),
                "rebuild_seconds": round(took, 2),
                "complete_and_in_order": order_in_redis(runtime) == wanted,
                "settings_kept": settings_in_redis(runtime, names) == settings,
                "second_pass_found": again.requeued + again.released + again.orphaned,
                "invariant_violations": len(runtime.broker.queues_admin.check(LANE)),
            }
        finally:
            runtime.close()


def is_good(result: dict[str, Any]) -> bool:
    return (
        result["complete_and_in_order"]
        and result["settings_kept"]
        and not result["second_pass_found"]
        and not result["invariant_violations"]
        and result["rebuild_seconds"] <= BAR_SECONDS
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--accounts", type=int, default=200, help="that have jobs waiting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    logging.getLogger("orchestrator").setLevel(logging.ERROR)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        results["SQLite"] = measure(f"sqlite:///{folder}/onelane.db", chosen.jobs, chosen.accounts, chosen.seed)
    with postgres() as server:
        results["PostgreSQL"] = measure(database_of(server, "rebuild"), chosen.jobs, chosen.accounts, chosen.seed)
    print(f"{'':28} {'SQLite':>12} {'PostgreSQL':>12}")
    for name in results["SQLite"]:
        print(f"{name.replace('_', ' '):28} {results['SQLite'][name]!s:>12} {results['PostgreSQL'][name]!s:>12}")
    chosen.json.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    return 0 if all(map(is_good, results.values())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
