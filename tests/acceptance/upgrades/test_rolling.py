"""Workers are replaced one by one while jobs come in: those of an older version of the pipelines beside a newer one's.

The control plane is of the newer version from the start, so old workers run what it makes, too.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import RowMapping

from orchestrator.settings import Settings
from tenants.store import workers
from tenants.store.jobs import read as jobs
from tenants.store.jobs.create import JobPlan
from tests import ROOT
from tests.acceptance.upgrades.make_archive import HERE, SECRET_KEY
from tests.crashes.installation import Installation, Worker, until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.campaign, pytest.mark.timeout(700)]

PATIENCE_SECONDS = 200.0


@pytest.fixture
def installation(
    migrated_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    monkeypatch.syspath_prepend(HERE / "new_modules")
    made = Installation(
        Settings.load(
            data_dir=tmp_path,
            database_url=migrated_url,
            redis_url=redis_url,
            secret_key=SecretStr(SECRET_KEY),
            pipelines=("carried_pipelines",),
            threads=2,
            shutdown_grace_seconds=30,
        )
    )
    yield made
    made.close()
    sys.modules.pop("carried_pipelines", None)


def test_every_job_is_done_while_worker_after_worker_is_replaced(installation: Installation) -> None:
    database, maker = installation.runtime.database, installation.runtime.jobs
    made: list[str] = []
    enough = threading.Event()

    def post() -> None:
        while not enough.wait(0.1):
            for pipeline in ("carried", "moved"):
                job, _ = maker.create(f"account-{len(made) % 7}", JobPlan(pipeline, {"word": "rolled"}))
                made.append(job["id"])

    def log() -> str:
        return "\n".join(each.log.read_text() for each in installation.workers)

    def launch(modules: str) -> Worker:
        return installation.launch_worker(PYTHONPATH=f"{ROOT}:{HERE / modules}")

    def serves(worker: Worker) -> bool:
        return worker.pid in {each["pid"] for each in database.read(workers.live)}

    old = [launch("old_modules"), launch("old_modules")]
    for each in old:
        until(lambda each=each: serves(each), "an old worker to serve", PATIENCE_SECONDS, log)  # type: ignore[misc]
    posting = threading.Thread(target=post)
    posting.start()
    try:
        for each in old:
            wanted = len(made) + 20
            until(lambda wanted=wanted: len(made) > wanted, "jobs to come in", PATIENCE_SECONDS, log)  # type: ignore[misc]
            new = launch("new_modules")
            until(lambda new=new: serves(new), "a new worker to serve", PATIENCE_SECONDS, log)  # type: ignore[misc]
            each.process.send_signal(signal.SIGTERM)
            assert each.process.wait(timeout=PATIENCE_SECONDS) == 0, log()
    finally:
        enough.set()
        posting.join()

    def job_of(job_id: str) -> RowMapping:
        return database.read(lambda c: jobs.fetch(c, job_id, None))

    def left() -> list[str]:
        return [each for each in made if not job_of(each)["finished_at"]]

    until(lambda: not left(), "all jobs to end", PATIENCE_SECONDS, log)
    for job_id in made:
        job = job_of(job_id)
        attempts = database.read(lambda c, job_id=job_id: jobs.fetch_attempts(c, job_id))  # type: ignore[misc]
        assert job["status"] == "completed", dict(job)
        assert all(attempt["outcome"] == "completed" for attempt in attempts)
