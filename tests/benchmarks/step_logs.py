"""How fast a step logs: `python -m tests.benchmarks.step_logs`.

A step writes 5,000 lines in a loop, in a thread of the worker and in a process of its own, alone and four at once, on
SQLite and on PostgreSQL. Measured are lines a second as the slowest step sees them, and until all of them stand in SQL
and the jobs have ended. Prints a table, and writes `step_logs.json` beside this file (or where `--json` says).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import func, select

from orchestrator.settings import Settings
from tenants.database.models import Event
from tenants.migrations import migrate
from tenants.queues import EmbeddedValkey
from tenants.secrets.sealing import new_key
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.conftest import Service

from .whole_path import database_of, postgres

LINES = 5_000
MODULE = "tests.benchmarks.pipelines"


def measure(service: Service, pipeline: str, at_once: int) -> dict[str, Any]:
    began = time.perf_counter()
    made = [
        service.runtime.jobs.create(f"account-{number}", JobPlan(pipeline, {"lines": LINES}))[0]["id"]
        for number in range(at_once)
    ]
    ended = [service.wait(job_id, seconds=900) for job_id in made]
    whole = time.perf_counter() - began
    events = Event.__table__
    statement = select(func.count()).where(events.c.job_id.in_(made), events.c.type == "log")
    kept = int(service.runtime.database.read(lambda connection: connection.execute(statement).scalar_one()))
    seconds = [job["result"]["seconds"] for job in ended if job["status"] == "completed"]
    return {
        "step": pipeline,
        "at_once": at_once,
        "lines_per_second": round(LINES / max(seconds)) if seconds else 0,
        "kept_per_second": round(kept / whole),
        "kept": kept,
        "completed": len(seconds),
    }


def measure_all(database_url: str, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    (folder / "valkey").mkdir()
    with EmbeddedValkey(folder / "valkey") as valkey:
        service = Service(
            Settings(
                database_url=database_url,
                redis_url=valkey.url,
                data_dir=folder,
                secret_key=SecretStr(new_key()),
                pipelines=(MODULE,),
            )
        )
        try:
            migrate(service.runtime.database)
            service.loops.start()
            service.work(threads=4, ONELANE_PIPELINES=MODULE)
            return [measure(service, pipeline, at_once) for pipeline in ("talk", "talk_apart") for at_once in (1, 4)]
        finally:
            service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        found = {
            "SQLite": measure_all(f"sqlite:///{folder}/onelane.db", Path(folder) / "on-sqlite"),
            "PostgreSQL": measure_all(database_of(server, "logs"), Path(folder) / "on-postgresql"),
        }
    for database, rows in found.items():
        for row in rows:
            print(f"{database:12}" + "  ".join(f"{name} {value}" for name, value in row.items()))
    chosen.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
