"""Undeliverable messages become dead letters that people see, and their jobs end; then Redis has them no longer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import dramatiq
import pytest
from dramatiq.common import current_millis
from sqlalchemy import Connection, update

from orchestrator.control.dispatch import entry_of
from orchestrator.loops.reconciler import Reconciler
from orchestrator.loops.rescuer import Rescuer
from orchestrator.loops.undeliverable import move_undeliverable
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Worker
from tenants.queues import Entry, QueueLimits
from tenants.store import workers
from tenants.store.attempt import OwnedAttempt
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.dead_letters.letters import LetterFilter
from tenants.store.dispatch import Dispatch
from tenants.store.jobs.create import JobPlan
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import start as start_steps
from tenants.store.steps import undeliverable
from tenants.store.steps.undeliverable import UndeliverableMessage, document_of, letter_id_of
from tests.orchestrator.conftest import Service, make_service
from tests.tenants.queues.lanes import Hand

LANE = "quick"


@pytest.fixture
def runtime(redis_url: str, migrated_url: str, tmp_path: Path) -> Iterator[Runtime]:
    """Without loops and workers: nothing happens but what the test does."""
    made = make_service(migrated_url, redis_url, tmp_path).runtime
    yield made
    made.close()


def make(runtime: Runtime, pipeline: str = "quick", account: str = "acme") -> tuple[str, str]:
    """A job and its first step, by their ids."""
    job, _ = runtime.jobs.create(account, JobPlan(pipeline, {"do": "return"}))
    return str(job["id"]), str(job["steps"][0]["id"])


def bury(runtime: Runtime) -> None:
    """As a worker does that cannot run what it claimed."""
    hand = Hand(runtime.broker, lane=LANE)
    hand.settle(hand.claim_one(), "bury")


def letters(runtime: Runtime) -> list[Any]:
    def read(connection: Connection) -> list[Any]:
        rows, _ = dead_letters.page(connection, LetterFilter(), limit=50, cursor=None)
        return [dead_letters.fetch(connection, row["id"]) for row in rows]

    return runtime.database.read(read)


def left_in_redis(runtime: Runtime) -> int:
    return runtime.broker.queues_admin.totals(LANE).buried


def test_the_job_of_an_undeliverable_message_fails_and_can_be_resumed(runtime: Runtime) -> None:
    job_id, step_id = make(runtime)
    bury(runtime)
    assert not move_undeliverable(runtime)
    job = runtime.jobs.get(job_id)
    assert (job["status"], job["failed_step"], job["steps"][0]["status"]) == ("failed", "quick", "failed")
    assert job["error"] == {"code": "internal", "message": "its message died in Redis: reason", "step": "quick"}
    (letter,) = letters(runtime)
    assert (letter["job_id"], letter["step_id"], letter["account"]) == (job_id, step_id, "acme")
    assert letter["message"]["args"] == [step_id]
    assert left_in_redis(runtime) == 0
    runtime.jobs.retry(job_id)
    assert letters(runtime) == [], "a replay settles its letter"
    assert [lease.id for lease in Hand(runtime.broker, lane=LANE).claim(2)] == [step_id]


def test_a_crash_before_the_message_is_removed_costs_nothing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept twice, it is one letter; and a job that was replayed in between is left alone."""
    job_id, _ = make(runtime)
    bury(runtime)
    with monkeypatch.context() as crash:
        crash.setattr(runtime.broker.queues_admin, "take_buried", lambda *_: 0)
        move_undeliverable(runtime)
        move_undeliverable(runtime)
    assert (len(letters(runtime)), left_in_redis(runtime)) == (1, 1)
    runtime.jobs.retry(job_id)
    move_undeliverable(runtime)
    assert (letters(runtime), left_in_redis(runtime)) == ([], 0)
    assert runtime.jobs.get(job_id)["status"] == "queued"


def test_a_message_of_no_job_is_a_letter_without_one(runtime: Runtime) -> None:
    stranger = Dispatch("never was", "stranger", "quick", "quick", LANE, 5, 1, None)
    other_account = Dispatch(make(runtime)[1], "other", "quick", "quick", LANE, 5, 1, None)
    Hand(runtime.broker, lane=LANE).claim_one()
    for step in (stranger, other_account):
        runtime.broker.enqueue_once(entry_of(step, datetime.now(UTC)))
        bury(runtime)
    nobodys: dramatiq.Message[None] = dramatiq.Message(LANE, "theirs", (), {}, {}, "m1", current_millis())
    runtime.broker.enqueue_once(Entry(message=nobodys, id="m1"))
    bury(runtime)
    move_undeliverable(runtime)
    shown = [(each["account"], each["actor"], each["job_id"], each["lane"]) for each in letters(runtime)]
    assert sorted(shown, key=str) == [
        ("other", "quick.quick", None, LANE),
        ("stranger", "quick.quick", None, LANE),
        (None, "theirs", None, LANE),
    ]
    assert left_in_redis(runtime) == 0


def test_a_message_whose_step_has_ended_is_only_removed(runtime: Runtime) -> None:
    job_id, _ = make(runtime)
    bury(runtime)
    runtime.jobs.cancel(job_id)
    move_undeliverable(runtime)
    assert (letters(runtime), left_in_redis(runtime), runtime.jobs.get(job_id)["status"]) == ([], 0, "cancelled")


def test_an_undeliverable_best_effort_step_does_not_end_the_job(runtime: Runtime) -> None:
    job_id, first = make(runtime, "lingering")
    second = runtime.jobs.get(job_id)["steps"][1]

    def run_the_first(connection: Connection) -> Any:
        workers.register(connection, id="w", host="here", pid=1, lanes=[LANE], threads=1)
        owned = start_steps.start(connection, first, worker_id="w", slot=0)
        assert isinstance(owned, OwnedAttempt)
        return finish_steps.complete(connection, owned, {"done": 1})

    assert runtime.database.write(run_the_first).id == second["id"]
    dead = UndeliverableMessage(second["lane"], "acme", second["id"], "1", datetime.now(UTC), "undecodable", b"\xff")
    runtime.database.write(lambda connection: undeliverable.record(connection, dead))
    job = runtime.jobs.get(job_id)
    assert (job["status"], job["steps"][1]["status"], letters(runtime)) == ("completed", "failed", [])


def test_a_rebuild_does_not_send_a_dead_message_again(runtime: Runtime) -> None:
    job_id, _ = make(runtime)
    bury(runtime)
    assert Reconciler(runtime).reconcile().requeued == 0
    assert runtime.jobs.get(job_id)["status"] == "failed"


def test_the_loop_does_it_by_itself(runtime: Runtime) -> None:
    reconciler = Reconciler(runtime)
    reconciler.run_once()
    job_id, _ = make(runtime)
    bury(runtime)
    reconciler.run_once()
    assert runtime.jobs.get(job_id)["status"] == "failed"


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_worker_without_the_pipeline_strands_no_job(service: Service) -> None:
    """It serves the lane and does not know the actor: the job says so, and goes on once a right one is there."""
    wrong = service.work(ONELANE_PIPELINES="tests.chaos.pipelines")
    job_id = service.make("patient")
    job = service.wait(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "internal")
    assert "unknown actor: patient.patient" in job["error"]["message"]
    wrong.terminate()
    assert wrong.wait(timeout=60) == 0
    service.go()
    service.work()
    service.runtime.jobs.retry(job_id)
    assert service.wait(job_id)["status"] == "completed"


def test_a_step_that_kills_its_workers_ends_as_a_dead_letter(runtime: Runtime) -> None:
    """Redis sets no bound to deliveries under onelane: SQL counts, and its end is a dead letter too."""
    job_id, step_id = make(runtime)
    assert runtime.broker.queues_admin.describe(LANE, "acme").limits == QueueLimits()  # type: ignore[union-attr]
    for number in range(finish_steps.LOST_BUDGET + 1):
        assert runtime.jobs.get(job_id)["status"] == "queued"

        def start_and_die(connection: Connection, name: str = f"w{number}") -> None:
            workers.register(connection, id=name, host="here", pid=1, lanes=[LANE], threads=1)
            assert isinstance(start_steps.start(connection, step_id, worker_id=name, slot=0), OwnedAttempt)
            connection.execute(update(Worker.__table__).values(heartbeat_at=db_now(-60)))

        runtime.database.write(start_and_die)
        assert Rescuer(runtime).rescue() == [step_id]
    job = runtime.jobs.get(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "lost")
    assert [each["outcome"] for each in job["steps"][0]["attempts"]] == ["lost"] * (finish_steps.LOST_BUDGET + 1)
    (letter,) = letters(runtime)
    assert (letter["job_id"], letter["error_code"]) == (job_id, "lost")
    runtime.jobs.retry(job_id)
    assert runtime.jobs.get(job_id)["status"] == "queued"


@pytest.mark.parametrize(
    ("payload", "kept"),
    [
        (b'{"args": ["\\ud83d\\ude00"]}', {"args": ["😀"]}),
        (b'{"args": ["\\u0000"]}', {"payload": '{"args": ["\\u0000"]}'}),
        (b'{"args": ["\\ud800"]}', {"payload": '{"args": ["\\ud800"]}'}),
        (b'{"args": [NaN]}', {"payload": '{"args": [NaN]}'}),
        (b'{"args": [1e999]}', {"payload": '{"args": [1e999]}'}),
        (b"[1]", {"payload": "[1]"}),
        (b"\xff\x00", {"payload": "\\xff"}),
        (b"[" * 100_000, {"payload": "[" * undeliverable.MAX_PAYLOAD_CHARACTERS}),
    ],
)
def test_any_message_becomes_a_document(payload: bytes, kept: dict[str, Any]) -> None:
    assert document_of(payload) == kept
    json.dumps(kept).encode()


def test_a_letters_id_is_derived_from_the_message() -> None:
    dead = UndeliverableMessage(LANE, "acme", "m", "17", datetime(2030, 1, 1, tzinfo=UTC), "reason", b"")
    other = UndeliverableMessage(LANE, "acme", "m", "18", dead.set_aside_at, "reason", b"")
    assert letter_id_of(dead) == letter_id_of(dead) != letter_id_of(other)
    made = UUID(letter_id_of(dead))
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert int(made) >> 80 == dead.set_aside_at.timestamp() * 1000
