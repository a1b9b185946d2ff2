"""What an operator learns of a failed attempt: one structured warning, a code that says whose fault it was, and no
second try of what can never succeed."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.errors import StepError
from actors.port import MAX_ARTIFACT_BYTES
from actors.step import MAX_OUTPUT_BYTES
from orchestrator.logs import configure
from orchestrator.runtime import Runtime
from orchestrator.worker.execution import Execution
from tenants.store import workers
from tests.orchestrator import pipelines
from tests.orchestrator.conftest import Service, make_service
from tests.orchestrator.worker.leased import WORKER, Leased


class Bench:
    """One worker's execution in this process, and its log as JSON lines."""

    def __init__(self, runtime: Runtime, log: io.StringIO) -> None:
        self.runtime = runtime
        self._log = log
        self.execution = Execution(runtime, worker_id=WORKER, sandbox=None)

    def run(self, do: str) -> dict[str, Any]:
        from tenants.store.jobs.create import JobPlan

        job, _ = self.runtime.jobs.create("acme", JobPlan("quick", {"do": do}))
        self.execution.run(job["steps"][0]["id"], Leased())  # type: ignore[arg-type]
        return self.runtime.jobs.get(job["id"])

    def warnings(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in lines if line["level"] == "warning" and "attempt" in line]


@pytest.fixture
def bench(redis_url: str, migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    runtime = make_service(migrated_url, redis_url, tmp_path).runtime
    runtime.database.write(lambda c: workers.register(c, id=WORKER, host="h", pid=1, lanes=["quick"], threads=1))
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    configure(runtime.settings.model_copy(update={"log_format": "json"}))
    yield Bench(runtime, log)
    root.handlers[:], root.level = before
    logging.captureWarnings(False)
    runtime.close()


def test_a_failed_attempt_leaves_one_structured_warning(bench: Bench) -> None:
    job = bench.run("fail")
    (warning,) = bench.warnings()
    assert warning["message"] == (
        f"attempt 1 of 3 of step quick.quick of job {job['id']} (account 'acme') failed: "
        "step_failed: RuntimeError: as ordered"
    )
    named = {name: warning[name] for name in ("account", "job", "step", "attempt", "code")}
    assert named == {
        "account": "acme",
        "job": job["id"],
        "step": "quick.quick",
        "attempt": 1,
        "code": "step_failed",
    }
    assert 'raise RuntimeError("as ordered")' in warning["traceback"]
    assert job["steps"][0]["status"] == "retrying"
    assert job["steps"][0]["attempts"][0]["error"]["code"] == "step_failed"


@pytest.mark.parametrize(("do", "codes"), [("reject", ["publish_failed"]), ("retry_once", ["step_failed"])])
def test_signals_that_fail_an_attempt_warn_too(bench: Bench, do: str, codes: list[str]) -> None:
    bench.run(do)
    assert [warning["code"] for warning in bench.warnings()] == codes


def test_an_attempt_that_did_not_fail_leaves_no_warning(bench: Bench) -> None:
    assert bench.run("return")["status"] == "completed"
    assert bench.warnings() == []


def test_the_text_log_has_the_traceback_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    configure(bench.runtime.settings)
    bench.run("fail")
    first, *rest = log.getvalue().splitlines()
    assert "warning" in first
    assert "step_failed: RuntimeError: as ordered" in first
    assert "Traceback (most recent call last):" in rest


def artifact_too_large(ctx: Any) -> dict[str, Any]:
    ctx.artifact("big.bin", "application/octet-stream", bytes(MAX_ARTIFACT_BYTES + 1))
    return {}


def port_call_out_of_shape(ctx: Any) -> dict[str, Any]:
    ctx._port.call("artifact.save", {"name": "x", "content_type": "y"})
    return {}


def unknown_call(ctx: Any) -> dict[str, Any]:
    ctx._port.call("fly", {})
    return {}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (artifact_too_large, f"at most {MAX_ARTIFACT_BYTES} are kept"),
        (port_call_out_of_shape, "out of shape"),
        (unknown_call, "'fly'"),
        (lambda ctx: {"x": {1, 2}}, "JSON"),
        (lambda ctx: "text", "returns a dict"),
        (lambda ctx: {"x": "a\x00b"}, "U+0000"),
        (lambda ctx: {"x": "y" * MAX_OUTPUT_BYTES}, f"{MAX_OUTPUT_BYTES} are allowed"),
    ],
    ids=["artifact", "payload", "call", "not-json", "not-a-dict", "nul", "large"],
)
def test_what_can_never_succeed_takes_one_attempt(
    bench: Bench, step: Callable[[Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "obey", step)
    job = bench.run("return")
    assert (job["status"], job["error"]["code"], len(job["steps"][0]["attempts"])) == ("failed", "step_failed", 1)
    assert message in job["error"]["message"]
    (warning,) = bench.warnings()
    assert warning["code"] == "step_failed"


def test_an_error_class_of_a_users_own_has_that_code_unless_it_names_one() -> None:
    class Mine(StepError):
        pass

    class Named(StepError):
        code = "paper_jam"

    assert (Mine.code, Mine.permanent, Named.code) == ("step_failed", False, "paper_jam")


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_process_of_its_own_reports_the_same(service: Service) -> None:
    service.work(threads=4)
    endings = ("fail", "exit", "artifact", "call", "set", "large")
    made = {do: service.make("apart", account=do, do=do) for do in endings}
    ended = {do: service.wait(job_id) for do, job_id in made.items()}
    codes = {do: (job["error"]["code"], len(job["steps"][0]["attempts"])) for do, job in ended.items()}
    assert codes == {
        "fail": ("step_failed", 2),
        "exit": ("crashed", 2),
        "artifact": ("step_failed", 1),
        "call": ("step_failed", 1),
        "set": ("step_failed", 1),
        "large": ("step_failed", 1),
    }
    written = (service.settings.data_dir / "worker.log").read_text()
    warnings = re.findall(
        r"attempt (\d) of 2 of step apart.apart of job (\S+) \(account '\w+'\) failed: (\w+):", written
    )
    wanted = [(str(number), made[do], code) for do, (code, tries) in codes.items() for number in range(1, tries + 1)]
    assert sorted(warnings) == sorted(wanted)
