"""Erasures with real processes: control planes that are killed in the middle, and steps that are killed for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from sqlalchemy import text

from orchestrator.runtime import Runtime
from tenants.database.models import Model
from tenants.store.jobs.create import JobPlan
from tenants.store.removal import erasures
from tests import ROOT
from tests.orchestrator.conftest import Service, make_service
from tests.orchestrator.web.held import fill, in_redis, naming, rows
from tests.support.servers import free_port

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

ADMIN_KEY = "admin-key-for-the-erasures-0001"
JOBS = 1500


class ControlPlane:
    """A `serve` of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        secret = service.settings.secret_key
        assert secret is not None
        self.port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ONELANE_")},
            "ONELANE_DATABASE_URL": service.settings.database_url,
            "ONELANE_REDIS_URL": str(service.settings.redis_url),
            "ONELANE_DATA_DIR": str(service.settings.data_dir),
            "ONELANE_SECRET_KEY": secret.get_secret_value(),
            "ONELANE_ADMIN_KEY": ADMIN_KEY,
            "ONELANE_PIPELINES": "tests.orchestrator.pipelines",
            "ONELANE_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
        }
        with (service.settings.data_dir / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", "serve"], env=environment, stdout=log, stderr=log
            )
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {ADMIN_KEY}"}, timeout=60
        )
        service.until(self._answers, "a control plane to answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._service.log()
        try:
            return self._client.get("/healthz").status_code == 200
        except httpx2.HTTPError:
            return False

    def call(self, method: str, path: str) -> Any:
        answer = self._client.request(method, path)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        self._client.close()


@pytest.fixture
def quiet(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service whose loops do not run in this process."""
    (tmp_path / "notes").mkdir()
    made = make_service(migrated_url, redis_url, tmp_path)
    yield made
    made.runtime.close()


def make_jobs(runtime: Runtime, account: str, number: int) -> None:
    for start in range(0, number, 1000):
        runtime.jobs.create_many(
            account, [JobPlan("chain", {"do": "return"}) for _ in range(min(1000, number - start))]
        )


def test_a_killed_control_planes_erasure_is_finished_by_another(quiet: Service) -> None:
    runtime = quiet.runtime
    for account in ("leaves", "stays"):
        runtime.database.write(lambda c, account=account: fill(c, account, quiet.settings.data_dir))  # type: ignore[misc]
    (quiet.settings.data_dir / "artifacts").mkdir(exist_ok=True)
    make_jobs(runtime, "leaves", JOBS)
    make_jobs(runtime, "stays", 20)
    plane = ControlPlane(quiet)

    def of_other() -> Any:
        kept = {
            name: sorted(repr(row) for row in found if "stays" in repr(row.get("account") or row.get("id")))
            for name, found in rows(runtime.database).items()
        }
        return kept, [each for each in in_redis(runtime) if b"@stays" in each]

    # Steps that a dispatcher is about to mark would change under our eyes.
    undispatched = text("SELECT count(*) FROM steps WHERE status = 'queued' AND dispatched_at IS NULL")
    quiet.until(
        lambda: runtime.database.read(lambda c: c.execute(undispatched).scalar_one()) == 0, "all to be dispatched"
    )
    before = of_other()
    steps = len([row for row in rows(runtime.database)["steps"] if row["account"] == "leaves"])
    erasure_id = plane.call("DELETE", "/v1/accounts/leaves")["erasure_id"]

    def erasure() -> Any:
        return runtime.database.read(lambda c: erasures.fetch(c, erasure_id))

    quiet.until(lambda: erasure()["removed"].get("jobs", 0) > 0, "the erasure to be under way")
    plane.kill()
    left = naming(runtime.database, "leaves")["jobs"]
    assert 0 < left < JOBS, "killed in the middle"

    quiet.loops.start()  # another control plane's
    try:
        quiet.until(lambda: erasure()["status"] == "completed", "another to finish it")
        done = erasure()
    finally:
        quiet.loops.stop()
    assert done["remaining"] == 0
    assert (done["removed"]["jobs"], done["removed"]["steps"]) == (JOBS + 1, steps), "each counted once"
    assert done["removed"]["redis_messages"] == JOBS
    assert set(naming(runtime.database, "leaves")) == {"audit", "erasures"}
    assert b"leaves" not in b"\n".join(in_redis(runtime))
    after = of_other()
    assert after[1] == before[1]
    for name in Model.metadata.tables:
        assert after[0][name] == before[0][name], name


def test_a_running_step_is_killed_before_its_rows_go(service: Service) -> None:
    """Its process is gone when the first row goes, and what its worker still writes makes nothing anew."""
    worker = service.work()
    job_id = service.make("apart", account="leaves", do="hang")
    service.make("apart", account="leaves")
    other = service.make("patient", account="stays", do="wait")
    service.until(lambda: service.began(job_id) and service.began(other), "the steps to begin")
    children = {each.pid for each in psutil.Process(worker.pid).children(recursive=True)}
    database = service.runtime.database
    erasure_id = database.write(lambda c: erasures.begin(c, "leaves", force=True, requested_by="a test"))

    def done() -> bool:
        return bool(database.read(lambda c: erasures.fetch(c, erasure_id))["status"] == "completed")

    service.until(done, "the account to be erased")
    assert set(naming(database, "leaves")) == {"erasures"}
    service.until(lambda: b"leaves" not in b"\n".join(in_redis(service.runtime)), "Redis to be empty of it")
    assert worker.poll() is None
    gone = [pid for pid in children if not psutil.pid_exists(pid)]
    assert gone, "the step's process was ended"
    service.go()
    assert service.wait(other)["status"] == "completed"
    again = service.run("apart", account="leaves")
    assert again["status"] == "completed", "an account of the same name starts as new"
