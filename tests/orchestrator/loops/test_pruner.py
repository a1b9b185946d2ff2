"""The pruner's loop over a real database: what is beyond the settings goes with all that hangs on it, files too."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update

from orchestrator.loops.pruner import Pruner
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Artifact, Attempt, Event, IdempotencyKey, Job, Step
from tenants.store import idempotency, workers
from tenants.store.attempt import OwnedAttempt
from tenants.store.job_store import job_store
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.conftest import make_service
from tests.support.ports import step_port

ACCOUNTS = ("acme", "other")
KEPT = 2


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    plain = make_service(migrated_url, redis_url, tmp_path).runtime
    plain.close()
    made = Runtime(plain.settings.model_copy(update={"keep_completed_jobs": KEPT}))
    made.database.write(lambda c: workers.register(c, id="w", host="h", pid=1, lanes=["quick"], threads=1))
    yield made
    made.close()


def completed(runtime: Runtime, account: str) -> str:
    """A job that ran and left an artifact behind."""
    job, _ = runtime.jobs.create(account, JobPlan("quick", {"do": "return"}, callback_url="https://there.example/"))
    owned = job_store(runtime.database).start(job["steps"][0]["id"], worker_id="w", slot=0)
    assert isinstance(owned, OwnedAttempt)
    port = step_port(runtime, owned)
    data = base64.b64encode(b"picture").decode()
    port.call("artifact.save", {"name": "a.png", "content_type": "image/png", "data": data})
    job_store(runtime.database).complete(owned, {})
    return str(job["id"])


def end_deliveries(connection: Connection) -> None:
    table = Job.__table__
    connection.execute(
        update(table).where(table.c.ended_job_id.is_not(None)).values(status="completed", finished_at=db_now())
    )


def test_what_is_beyond_the_settings_goes_with_all_that_hangs_on_it(runtime: Runtime) -> None:
    made = {account: [completed(runtime, account) for _ in range(KEPT + 3)] for account in ACCOUNTS}
    young = {account: ids[-KEPT:] for account, ids in made.items()}
    long_ago = db_now(-2 * runtime.settings.keep_jobs_seconds)

    def grow_old(connection: Connection) -> None:
        end_deliveries(connection)
        idempotency.claim(connection, "a key", "hash")
        connection.execute(update(Job.__table__).values(finished_at=long_ago))
        connection.execute(update(IdempotencyKey.__table__).values(created_at=long_ago))

    runtime.database.write(grow_old)
    files = runtime.settings.data_dir / "artifacts"
    assert sum(path.is_file() for path in files.rglob("*")) == 2 * (KEPT + 3)

    while Pruner(runtime).run_once():
        continue

    def read(connection: Connection) -> dict[str, Any]:
        kept = connection.execute(select(Job.__table__.c.id).where(Job.__table__.c.ended_job_id.is_(None))).scalars()
        hangs = {
            table.__tablename__: set(connection.execute(select(table.__table__.c.job_id)).scalars())
            for table in (Step, Attempt, Artifact, Event)
        }
        deliveries = connection.execute(
            select(Job.__table__.c.ended_job_id).where(Job.__table__.c.ended_job_id.is_not(None))
        ).scalars()
        keys = connection.execute(select(func.count()).select_from(IdempotencyKey.__table__)).scalar_one()
        return {"kept": set(kept), "hangs": hangs, "deliveries": set(deliveries), "keys": keys}

    found = runtime.database.read(read)
    kept = {job_id for ids in young.values() for job_id in ids}
    assert found["kept"] == kept
    assert found["deliveries"] == kept
    assert found["hangs"]["artifacts"] == found["hangs"]["attempts"] == kept
    assert found["keys"] == 0
    assert sum(path.is_file() for path in files.rglob("*")) == len(kept)
