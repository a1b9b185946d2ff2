"""Alerts in the store: written with their cause, counted where alike, claimed once, limited by the hour."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update

from tenants.database.columns import db_now
from tenants.database.models import Alert, AlertHour
from tenants.database.transactions import Database
from tenants.store.dead_letters import alerts
from tenants.store.dead_letters.alerts import Message
from tenants.store.jobs.create import StepPlan
from tenants.store.publishing import publications
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import undeliverable
from tenants.store.steps.undeliverable import UndeliverableMessage
from tests.tenants.conftest import Bench

TABLE = Alert.__table__
ONE_STEP = (StepPlan("publish", "publish", True, 3),)
SECRET = "sk-live-0123456789"


class Watch:
    """Looks at the alerts, and sends them as a control plane does."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def rows(self, kind: str | None = None) -> list[Any]:
        rows = self.database.read(lambda c: c.execute(select(TABLE).order_by(TABLE.c.seq)).all())
        return [row for row in rows if kind in (None, row.kind)]

    def note(self, kind: Any = "dead_letter", account: str = "acme", subject: str = "x", **more: Any) -> None:
        once = more.pop("once_per_job", False)
        self.database.write(
            lambda c: alerts.raise_alert(c, kind, account=account, subject=(subject,), details=more, once_per_job=once)
        )

    def claim(self, per_hour: int = 60) -> Message | None:
        return self.database.write(lambda c: alerts.claim(c, per_hour=per_hour))

    def settle(self, message: Message, *, taken: int = 1, refused: tuple[int, ...] = (), every: float = 900.0) -> int:
        return self.database.write(lambda c: alerts.settle(c, message, every=every, taken=taken, refused=refused))

    def send(self, **how: Any) -> Message:
        message = self.claim()
        assert message is not None
        self.settle(message, **how)
        return message

    def let_time_pass(self, seconds: float = 3600.0) -> None:
        """As if all had happened so much sooner."""

        def work(c: Connection) -> None:
            for row in c.execute(select(TABLE)).mappings():
                ago = {
                    name: db_now((row[name] - datetime.now(UTC)).total_seconds() - seconds)
                    for name in ("first_at", "last_at", "due_at", "rest_until", "sent_at")
                    if row[name] is not None
                }
                c.execute(update(TABLE).where(TABLE.c.seq == row["seq"]).values(**ago))
            c.execute(delete(AlertHour.__table__))

        self.database.write(work)


@pytest.fixture
def watch(database: Database, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(alerts, "_hour", lambda _: "2026-11-21T22")  # the clock may strike while a test runs
    return Watch(database)


# --- what writes them ----------------------------------------------------------------------------------------------


def fail(bench: Bench, code: str = "publish_failed", account: str = "acme") -> str:
    job_id, step = bench.make(account, steps=ONE_STEP)
    owned = bench.own(step.id)
    error = {"code": code, "message": f"the target said {SECRET}"}
    bench.write(
        lambda c: finish_steps.fail(c, owned, outcome="failed", error=error, traceback=SECRET, message={"a": 1})
    )
    return job_id


def test_the_alert_of_a_dead_letter_has_only_ids_and_names(bench: Bench, watch: Watch) -> None:
    job_id = fail(bench)
    (row,) = watch.rows()
    letter = row.details.pop("dead_letter_id")
    assert row.details == {
        "lane": "publish",
        "pipeline": "blog",
        "step": "publish",
        "error_code": "publish_failed",
        "job_id": job_id,
    }
    assert letter
    assert (row.kind, row.account, row.occurrences, row.told) == ("dead_letter", "acme", 1, 0)
    assert SECRET not in str(row)


def test_a_transaction_that_fails_leaves_no_alert(bench: Bench, watch: Watch) -> None:
    _, step = bench.make(steps=ONE_STEP)
    owned = bench.own(step.id)

    def work(c: Connection) -> None:
        error = {"code": "internal", "message": ""}
        finish_steps.fail(c, owned, outcome="failed", error=error, traceback=None, message={})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.write(work)
    assert watch.rows() == []


def test_a_code_that_a_step_made_up_is_not_stored(bench: Bench, watch: Watch) -> None:
    fail(bench, code=f"Token {SECRET}")
    assert watch.rows()[0].details["error_code"] == "other"
    assert SECRET not in str(watch.rows())


def test_an_unknown_outcome_has_one_alert(bench: Bench, watch: Watch) -> None:
    """The ledger and the dead letter are two writes of one thing."""
    job_id, step = bench.make(steps=ONE_STEP)
    owned = bench.own(step.id)
    bench.write(lambda c: publications.create_draft(c, owned, title="t", body="b", tags=[]))
    entry = bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, owned, 1))
    bench.write(lambda c: publications.unknown(c, owned, SECRET))
    error = {"code": "outcome_unknown", "message": SECRET}
    bench.write(lambda c: finish_steps.fail(c, owned, outcome="failed", error=error, traceback=None, message={}))
    (row,) = watch.rows()
    assert (row.kind, row.occurrences) == ("needs_review", 1)
    assert (row.details["job_id"], row.details["publication_id"]) == (job_id, entry["id"])
    assert SECRET not in str(row)


def test_a_job_that_ends_with_a_started_publish_has_an_alert(bench: Bench, watch: Watch) -> None:
    _, step = bench.make(steps=ONE_STEP)
    owned = bench.own(step.id)
    bench.write(lambda c: publications.create_draft(c, owned, title="t", body="b", tags=[]))
    bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, owned, 1))
    bench.write(lambda c: finish_steps.cancel(c, owned))
    assert [row.kind for row in watch.rows()] == ["needs_review"]


def test_a_message_that_belongs_to_no_job_raises_an_alert(bench: Bench, watch: Watch) -> None:
    dead = UndeliverableMessage(
        "publish", None, "nobody's", "b1", datetime.now(UTC), "undecodable", b'{"actor_name": "x"}'
    )
    bench.write(lambda c: undeliverable.record(c, dead))
    (row,) = watch.rows()
    assert (row.kind, row.account, row.details["lane"]) == ("dead_letter", None, "publish")


# --- what is alike -------------------------------------------------------------------------------------------------


def test_alerts_of_one_kind_are_counted_and_sent_after_the_silence(bench: Bench, watch: Watch) -> None:
    fail(bench)
    watch.send()
    for _ in range(41):
        watch.note(subject="y")
    for _ in range(3):
        fail(bench)
    fail(bench, code="readback_mismatch")
    fail(bench, account="other")
    first = watch.rows()[0]
    assert (first.occurrences, first.told) == (4, 1)
    assert first.due_at == first.rest_until, "its like rests"
    sent = [watch.send().rows[0] for _ in range(3)]
    assert [(row["details"].get("error_code"), row["account"], row["telling"]) for row in sent] == [
        (None, "acme", 41),
        ("readback_mismatch", "acme", 1),
        ("publish_failed", "other", 1),
    ]
    assert watch.claim() is None
    watch.let_time_pass()
    again = watch.send()
    assert (again.rows[0]["telling"], again.rows[0]["told"]) == (4, 1), "the latest, and two more like it"
    watch.let_time_pass()
    assert watch.claim() is None, "nothing came since"


def test_an_alert_during_a_message_is_sent_with_the_next(watch: Watch) -> None:
    watch.note()
    message = watch.claim()
    assert message is not None
    watch.note()
    watch.settle(message)
    (row,) = watch.rows()
    assert (row.occurrences, row.told) == (2, 1)
    assert abs(row.due_at - row.rest_until) < timedelta(seconds=1)


def test_one_thing_of_a_job_seen_twice_is_one(watch: Watch) -> None:
    for _ in range(2):
        watch.note("login_required", job_id="j1", once_per_job=True)
    watch.send()
    watch.note("login_required", job_id="j1", once_per_job=True)
    assert watch.rows()[0].due_at is None
    watch.note("login_required", job_id="j2", once_per_job=True)
    assert watch.rows()[0].occurrences == 2


# --- senders -------------------------------------------------------------------------------------------------------


def test_each_message_has_one_claimer(database: Database, watch: Watch) -> None:
    for number in range(12):
        watch.note(subject=str(number))
    at_once = threading.Barrier(4)

    def claim_all() -> list[str]:
        at_once.wait(30)
        found = []
        while (message := watch.claim()) is not None:
            found += [row["id"] for row in message.rows]
        return found

    with ThreadPoolExecutor(4) as pool:
        claimed = [each for found in pool.map(lambda _: claim_all(), range(4)) for each in found]
    assert sorted(claimed) == sorted(row.id for row in watch.rows())


def test_a_claimer_that_died_is_followed_by_another_and_changes_nothing(watch: Watch) -> None:
    watch.note()
    dead = watch.claim()
    assert dead is not None
    assert watch.claim() is None
    watch.let_time_pass()
    message = watch.claim()
    assert message is not None
    watch.settle(dead)
    assert watch.rows()[0].told == 0
    watch.settle(message)
    assert watch.rows()[0].told == 1


def test_only_a_channel_that_refuses_gets_the_same_alert_again_later(watch: Watch) -> None:
    watch.note()
    assert watch.send(taken=1, refused=(2,)).channels is None
    watch.note()
    assert watch.claim() is None, "it is tried again later"
    watch.let_time_pass()
    again = watch.send(taken=1)
    assert (again.channels, again.rows[0]["telling"]) == (frozenset({2}), 1), "it gets what the first channel got"
    (row,) = watch.rows()
    assert (row.told, row.undelivered, row.tries) == (1, "", 0)


def test_a_message_is_given_up_after_some_tries_and_the_next_is_tried(watch: Watch) -> None:
    watch.note()
    given_up, delays = 0, []
    for _ in range(alerts.MAX_TRIES):
        message = watch.claim()
        assert message is not None
        given_up += watch.settle(message, taken=0, refused=(1,))
        row = watch.rows()[0]
        if row.due_at is not None:
            delays.append(round((row.due_at - datetime.now(UTC)).total_seconds(), -1))
        watch.let_time_pass()
    assert given_up == 1
    assert delays == [10, 20, 40, 80, 160, 320, 640, 1280, 1800]
    assert watch.claim() is None
    watch.note()
    assert watch.send().channels is None
    assert watch.rows()[0].given_up_at is None, "it reached somebody again"


def test_the_hourly_limit_holds_and_one_message_has_the_rest(watch: Watch) -> None:
    for number in range(3):
        watch.note(subject=str(number))
    sent = []
    while (message := watch.claim(per_hour=4)) is not None:
        watch.settle(message)
        sent.append(len(message.rows))
    assert sent == [1, 1, 1]
    for number in range(50):
        watch.note(account=f"a{number}")
    message = watch.claim(per_hour=4)
    assert message is not None
    assert (len(message.rows), message.left) == (50, 0), "the last one has all"
    watch.settle(message)
    watch.note(subject="late")
    assert watch.claim(per_hour=4) is None
    watch.let_time_pass(0)  # another hour
    assert watch.claim(per_hour=4) is not None


def test_what_no_channel_took_does_not_count_against_the_cap(watch: Watch) -> None:
    watch.note()
    for _ in range(3):
        message = watch.claim(per_hour=1)
        assert message is not None
        watch.settle(message, taken=0, refused=(1, 2))
        watch.database.write(lambda c: c.execute(update(TABLE).values(due_at=db_now())))


def test_alerts_of_long_ago_are_forgotten(watch: Watch) -> None:
    watch.note(subject="old")
    watch.let_time_pass(100)
    watch.note(subject="new")
    assert watch.database.read(alerts.overdue) > 90
    watch.database.write(lambda c: alerts.forget(c, older_than=50))
    assert [row.key for row in watch.rows()] == ['["dead_letter", "acme", "new"]']
