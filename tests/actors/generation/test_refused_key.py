"""A key that its provider refuses for good, through a real worker: one attempt each, one alert for all, and `why`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from orchestrator.offline_model.faults import Fault
from orchestrator.settings import Settings
from orchestrator.step_clients import text_model_scope
from tenants.database.models import Alert
from tenants.secrets.sealing import new_key
from tenants.store.jobs.create import JobPlan
from tenants.store.steps import provider_backoffs
from tests.actors.generation.local_model import KEY, OfflineModel
from tests.orchestrator.conftest import Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


@pytest.fixture
def service(redis_url: str, sqlite_template: Path, tmp_path: Path, offline_model: OfflineModel) -> Iterator[Service]:
    shutil.copy(sqlite_template, tmp_path / "onelane.db")
    made = Service(
        Settings(
            database_url=f"sqlite:///{tmp_path}/onelane.db",
            redis_url=redis_url,
            data_dir=tmp_path,
            secret_key=SecretStr(new_key()),
            gemini_api_key=SecretStr(KEY),
            gemini_base_url=offline_model.url,
            circuit_failures=2,
        )
    )
    made.loops.start()
    yield made
    made.close()


def test_a_key_without_quota_fails_each_job_once_and_alerts_once(service: Service, offline_model: OfflineModel) -> None:
    # Given a key whose quota is zero, and more failures than open a circuit
    offline_model.faults.add(Fault("quota", reason="zero", times=4))
    worker = service.work(
        GEMINI_API_KEY=KEY, GOOGLE_GEMINI_BASE_URL=offline_model.url, ONELANE_PIPELINES="", ONELANE_CIRCUIT_FAILURES="2"
    )
    jobs = [service.wait(make(service, account)) for account in ("a", "a", "a", "b")]
    # Then each job failed after one attempt, and says what a person must do
    for job in jobs:
        assert (job["status"], job["error"]["code"]) == ("failed", "provider_error")
        assert "no quota at all" in job["error"]["message"]
        assert len(job["steps"][0]["attempts"]) == 1
    # and there is one alert, of no account, and no circuit is open
    alerts = service.runtime.database.read(lambda c: c.execute(select(Alert.__table__)).mappings().all())
    (alert,) = alerts
    assert (alert["kind"], alert["account"], alert["occurrences"]) == ("provider_refused", None, 4)
    assert KEY not in str(dict(alert))
    # What waits says so too, while nobody runs it
    worker.terminate()
    worker.wait(60)
    waiting = make(service, "c")
    codes = {why.code: why.message for why in service.runtime.explainer.why(waiting)}
    assert "no quota at all" in codes["provider_refused"]
    # When the provider answers the key again, the refusal is over
    service.work(GEMINI_API_KEY=KEY, GOOGLE_GEMINI_BASE_URL=offline_model.url, ONELANE_PIPELINES="")
    service.until(lambda: service.job(waiting)["steps"][0]["status"] == "completed", "the draft to be made")
    scope = text_model_scope(service.settings)
    assert service.runtime.database.read(lambda c: provider_backoffs.refusal(c, scope)) is None


def make(service: Service, account: str) -> str:
    made, _ = service.runtime.jobs.create(account, JobPlan("blog", {"topic": "Lanes"}))
    return str(made["id"])
