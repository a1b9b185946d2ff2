"""The examples of `docs/pipelines.md` run: each module is loaded, its tests pass, and a worker runs its jobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from actors import errors
from actors.errors import StepError
from orchestrator.settings import Settings
from orchestrator.web.api.models.jobs import JobError
from tenants.migrations import migrate
from tenants.secrets.sealing import new_key
from tenants.store.jobs.create import JobPlan
from tests import ROOT
from tests.orchestrator.conftest import Service

PAGE = (ROOT / "docs" / "pipelines.md").read_text()
MODULES = ("shop.pipelines", "shop.steering")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's examples as files, under the names in their first lines."""
    folder = tmp_path_factory.mktemp("project")
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        named = re.match(r"# (\S+\.py)\n", block)
        path = folder / (named[1] if named else "shop/unnamed.py")
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(block)
    (folder / "shop" / "__init__.py").touch()
    return folder


def run_python(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{project}:{ROOT}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, text=True, capture_output=True, timeout=120)


def test_the_tests_of_the_page_pass(project: Path) -> None:
    ran = run_python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_the_testing_aid_needs_no_test_framework_and_every_example_is_valid(project: Path) -> None:
    program = (
        "import sys, onelane.testing, shop.unnamed, shop.pipelines, shop.steering\n"
        "assert not {'pytest', 'redis', 'sqlalchemy', 'playwright'} & set(sys.modules)"
    )
    ran = run_python(project, "-c", program)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_worker_runs_the_examples(
    project: Path, redis_url: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(project))
    settings = Settings(
        database_url=sqlite_url,
        redis_url=redis_url,
        data_dir=tmp_path,
        secret_key=SecretStr(new_key()),
        pipelines=MODULES,
    )
    service = Service(settings)
    try:
        migrate(service.runtime.database)
        service.loops.start()
        service.work(ONELANE_PIPELINES=",".join(MODULES), PYTHONPATH=f"{project}:{ROOT}")

        def make(account: str, pipeline: str, **input: object) -> str:
            return str(service.runtime.jobs.create(account, JobPlan(pipeline, input))[0]["id"])

        good = make("good", "order", number=7, lines=["bread"])
        empty = make("empty", "order", number=8, lines=["nothing"])
        asked = {answer: make(answer, "ask", answer=answer) for answer in ("yes", "later", "tomorrow", "never", "busy")}
        job = service.wait(good)
        assert (job["status"], job["result"]) == ("completed", {"parcel": "parcel-7"})
        assert job["steps"][2]["output"] == {"sent": True, "parcel": "parcel-7"}
        assert service.wait(empty)["error"]["code"] == "empty_order"
        assert service.wait(asked["yes"])["status"] == "completed"
        assert service.wait(asked["never"])["error"]["code"] == "unknown_supplier"
        for answer, outcome, spent in (
            ("later", "failed", 1),
            ("tomorrow", "snoozed", 0),
            ("busy", "provider_busy", 0),
        ):
            job_id = asked[answer]
            service.until(lambda job_id=job_id: _attempts(service, job_id) >= 1, answer)  # type: ignore[misc]
            step = service.job(job_id)["steps"][0]
            assert (step["attempts"][0]["outcome"], step["attempt"]) == (outcome, spent)
    finally:
        service.close()


def _attempts(service: Service, job_id: str) -> int:
    """How many attempts have ended."""
    attempts = service.job(job_id)["steps"][0]["attempts"]
    return sum(1 for attempt in attempts if attempt["outcome"] is not None)


def test_the_page_lists_the_error_codes_of_the_api_and_of_steps() -> None:
    listed = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## Error codes") : PAGE.index("An error that can never")]))
    described = JobError.model_fields["code"].description
    assert described is not None
    codes = set(re.findall(r"`(\w+)`", described))
    assert codes <= listed
    raised = {each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, StepError)}
    assert raised <= codes
