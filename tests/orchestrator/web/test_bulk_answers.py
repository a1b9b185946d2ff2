"""Calls that do many things say exactly what they did, also under race and when a server goes away in their midst."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from orchestrator.control.jobs import Jobs
from orchestrator.runtime import Runtime
from tenants.database.models import Job
from tenants.database.transactions import CommitUnknown
from tenants.errors import AccountBusy, QueueNotEmpty, Unavailable
from tenants.queues import ServerUnreachable
from tenants.queues.lua import script
from tenants.store import workers
from tenants.store.accounts import queues
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.jobs.create import JobPlan
from tenants.store.steps import start as start_steps
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench

QUEUE = "/v1/admin/queues/generate/acme"
LETTERS = "/v1/admin/dead-letters"
SAMPLE = JobPlan("sample", {"topic": "lanes"})


def cancelled_jobs(runtime: Runtime) -> int:
    table = Job.__table__
    statement = select(func.count()).where(table.c.account == "acme", table.c.status == "cancelled")
    return int(runtime.database.read(lambda c: c.execute(statement).scalar_one()))


@ON_BOTH
def test_deletions_under_race_count_each_cancelled_job_once(runtime: Runtime) -> None:
    """Jobs are made and started while three callers delete the queue: what the answers say is what SQL says."""
    runtime.database.write(lambda c: workers.register(c, id="w1", host="h", pid=1, lanes=["generate"], threads=4))
    first = [runtime.jobs.create("acme", SAMPLE)[0]["steps"][0]["id"] for _ in range(30)]
    gate = threading.Barrier(6, timeout=60)

    def make() -> int:
        gate.wait()
        for _ in range(15):
            runtime.jobs.create("acme", SAMPLE)
        return 0

    def start() -> int:
        gate.wait()
        for step_id in first[::-1]:
            with suppress(IntegrityError):  # the slot is taken
                runtime.database.write(partial(start_steps.start, step_id=step_id, worker_id="w1", slot=0))
        return 0

    def delete() -> int:
        gate.wait()
        reported = 0
        for _ in range(5):
            try:
                reported += runtime.queue_deletion.delete("generate", "acme", force=True).cancelled
            except (AccountBusy, QueueNotEmpty):
                continue
        return reported

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(work) for work in (make, make, start, delete, delete, delete)]
        reported = sum(call.result(120) for call in calls)
    assert reported == cancelled_jobs(runtime)
    waiting = runtime.database.read(lambda c: queues.count_steps(c, "generate", "acme")).waiting
    found = runtime.broker.queues_admin.describe("generate", "acme")
    held = 0 if found is None else found.waiting + found.delayed
    assert held >= waiting, "what waits in SQL was not lost from Redis"


@ON_BOTH
def test_a_deletion_that_redis_stops_says_what_was_cancelled(
    api: Api, runtime: Runtime, new_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        new_job()

    def away(*_: Any) -> Any:
        raise ServerUnreachable("no server answers")

    monkeypatch.setattr(runtime.broker.queues_admin, "purge", away)
    answer = api.delete(f"{QUEUE}?force=true")
    assert (answer.status_code, answer.json()) == (200, {"cancelled": 3, "deleted": False})
    assert cancelled_jobs(runtime) == 3
    row = api.get("/v1/admin/audit").json()["items"][0]
    assert (row["details"]["cancelled"], row["details"]["deleted"]) == (3, False)
    assert api.delete(f"{QUEUE}?force=true").status_code == 503, "nothing was cancelled"


@ON_BOTH
def test_a_job_that_comes_during_a_deletion_is_not_lost(
    runtime: Runtime, new_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the last look at SQL and before its message is removed from Redis, each time."""
    new_job()
    admin = runtime.broker.queues_admin
    purge = admin.purge

    def purge_late(lane: str, account: str) -> list[str]:
        new_job()
        return purge(lane, account)

    with monkeypatch.context() as patch:
        patch.setattr(admin, "purge", purge_late)
        done = runtime.queue_deletion.delete("generate", "acme", force=True)
    assert (done.cancelled, done.deleted) == (cancelled_jobs(runtime), False)
    found = admin.describe("generate", "acme")
    assert found is not None
    assert found.waiting == runtime.database.read(lambda c: queues.count_steps(c, "generate", "acme")).waiting == 1
    assert runtime.queue_deletion.delete("generate", "acme", force=True).deleted


def test_a_reap_that_redis_stops_says_what_was_torn_down(
    api: Api, runtime: Runtime, new_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queues of the first lane are torn down; the server does not answer for the next."""
    for account in ("a", "b", "c"):
        api.post(f"/v1/jobs/{new_job(account)['id']}:cancel")
    server, admin = runtime.broker.server, runtime.broker.queues_admin
    run, generate = server.run, runtime.broker.keys.root("generate")

    def only_generate(wanted: Any, root: str, *arguments: Any) -> Any:
        if wanted is script("reap") and root != generate:
            raise ServerUnreachable("no server answers")
        return run(wanted, root, *arguments)

    monkeypatch.setattr(server, "run", only_generate)
    answer = api.post("/v1/admin/reap", {"idle_longer_than": 0})
    assert (answer.status_code, answer.json()["reaped"]) == (200, 3)
    assert [each["account"] for each in answer.json()["queues"]] == ["a", "b", "c"]
    assert api.post("/v1/admin/reap", {"idle_longer_than": 0}).status_code == 503, "nothing was torn down"
    api.post(f"/v1/jobs/{new_job('d')['id']}:cancel")
    assert admin.reap(0) == [("generate", "d")], "also of the broker alone"


@pytest.mark.parametrize("verb", ["discard", "replay"])
@pytest.mark.parametrize("error", [Unavailable("away"), CommitUnknown("lost")])
def test_resolving_letters_says_what_was_done_before_the_database_went_away(
    api: Api, bench: Bench, new_job: Any, monkeypatch: pytest.MonkeyPatch, verb: str, error: Exception
) -> None:
    for number in range(3):
        bench.fail(bench.start(new_job(f"account-{number}")))
    owner, name = (dead_letters, "resolve") if verb == "discard" else (Jobs, "replay")
    real, calls = getattr(owner, name), iter([None, error])

    def sometimes(*args: Any, **more: Any) -> Any:
        failure = next(calls)
        if failure is not None:
            raise failure
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, sometimes)
        answer = api.post(f"{LETTERS}:{verb}", {"filter": {}})
    assert answer.status_code == 200
    reported = answer.json()
    assert (reported["matched"], reported["resolved"], reported["skipped"], reported["left"]) == (3, 1, 0, 2)
    assert str(error) in reported["stopped"]
    assert len(api.get(LETTERS).json()["items"]) == 2
