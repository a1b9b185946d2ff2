"""The publication ledger in SQL: one entry a draft, moves only as drawn, and only by the attempt that owns the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from tenants.database.columns import db_now
from tenants.database.models import Alert, Draft, Job, Publication
from tenants.errors import DraftChanged, NotFound, OwnershipLost, PublicationNotUnknown
from tenants.store.attempt import OwnedAttempt
from tenants.store.jobs import bulk_cancel
from tenants.store.jobs import finish as endings
from tenants.store.jobs import timers as clock
from tenants.store.publishing import publications
from tenants.store.steps import finish as finish_steps
from tests.tenants.conftest import Bench


@pytest.fixture
def publishing(bench: Bench) -> OwnedAttempt:
    """A job whose draft is kept and whose publish step runs."""
    _, first = bench.make()
    generate = bench.own(first.id)
    bench.write(lambda c: publications.create_draft(c, generate, title="T", body="B", tags=["t"]))
    following = bench.write(lambda c: finish_steps.complete(c, generate, {}))
    return bench.own(following.id)


def entry(bench: Bench) -> Any:
    return bench.database.read(lambda c: c.execute(select(Publication.__table__)).mappings().one())


def draft(bench: Bench) -> Any:
    return bench.database.read(lambda c: c.execute(select(Draft.__table__)).mappings().one())


def test_the_way_of_a_post(bench: Bench, publishing: OwnedAttempt) -> None:
    opened = bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    assert (opened["status"], opened["started_seconds_ago"]) == ("intent", None)
    again = bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    assert (again["id"], again["marker"]) == (opened["id"], opened["marker"])
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    assert (entry(bench)["status"], draft(bench)["status"]) == ("started", "publishing")
    bench.write(lambda c: publications.confirmed(c, publishing, url="http://x/1", external_id="1"))
    assert (entry(bench)["status"], entry(bench)["url"], draft(bench)["status"]) == (
        "confirmed",
        "http://x/1",
        "published",
    )


def test_a_started_entry_cannot_be_started_again(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    with pytest.raises(NotFound, match="intent"):
        bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    bench.write(lambda c: publications.absent(c, publishing))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))


def test_an_attempt_that_lost_its_step_cannot_start_a_publish(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: bench.lose(c, publishing.job_id, 1))
    with pytest.raises(OwnershipLost):
        bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    with pytest.raises(OwnershipLost):
        bench.write(lambda c: publications.absent(c, publishing))
    with pytest.raises(OwnershipLost):
        bench.write(lambda c: publications.confirmed(c, publishing, url="u", external_id=None))
    assert entry(bench)["status"] == "intent"


def test_the_time_since_a_request_counts_from_the_end_of_its_attempt(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    before = bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))[
        "started_seconds_ago"
    ]
    bench.write(lambda c: bench.lose(c, publishing.job_id, 1))
    successor = bench.own(publishing.step_id)
    after = bench.write(lambda c: publications.open_entry(c, successor, publisher="demo", base_url="http://blog"))
    assert after["status"] == "started"
    # The lost attempt ended a moment ago: its browser may have sent until then.
    assert 0 <= after["started_seconds_ago"] < before + 5


def test_an_unknown_outcome_goes_to_review(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    bench.write(lambda c: publications.unknown(c, publishing, "the target cannot say"))
    assert (entry(bench)["status"], draft(bench)["status"]) == ("unknown", "needs_review")
    assert bench.database.read(publications.awaiting_review) == 1


def test_a_second_generate_replaces_only_an_unpublished_draft(bench: Bench) -> None:
    _, first = bench.make()
    owned = bench.own(first.id)
    bench.write(lambda c: publications.create_draft(c, owned, title="one", body="b", tags=[]))
    replaced = bench.write(lambda c: publications.create_draft(c, owned, title="two", body="b", tags=[]))
    assert (replaced["title"], replaced["version"]) == ("two", 2)


def test_a_publish_without_a_draft_says_so(bench: Bench) -> None:
    _, first = bench.make()
    owned = bench.own(first.id)
    with pytest.raises(NotFound, match="has no draft"):
        bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))


@pytest.mark.parametrize("outcome", ["failed", "timed_out", "lost"])
def test_a_job_that_ends_with_a_started_publish_leaves_it_to_a_person(
    bench: Bench, publishing: OwnedAttempt, outcome: Any
) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    error = {"code": "crashed", "message": "the process died"}
    bench.write(lambda c: finish_steps.fail(c, publishing, outcome=outcome, error=error, traceback=None, message={}))
    assert (entry(bench)["status"], draft(bench)["status"]) == ("unknown", "needs_review")
    job = bench.job(publishing.job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "outcome_unknown")
    assert bench.attempts(publishing.job_id)[-1]["outcome"] == outcome


def run_the_clock(bench: Bench, job_id: str) -> None:
    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == job_id).values(deadline_at=db_now(-1))))
    bench.write(lambda c: clock.end_at_deadline(c, limit=10))


ENDS_WHILE_WAITING: dict[str, Callable[[Bench, OwnedAttempt], Any]] = {
    "cancelled": lambda bench, owned: bench.write(lambda c: endings.end(c, bench.job(owned.job_id), "cancelled")),
    "timed_out": lambda bench, owned: run_the_clock(bench, owned.job_id),
    "queue emptied": lambda bench, owned: bench.write(
        lambda c: bulk_cancel.cancel_waiting(c, owned.lane, owned.account, limit=10)
    ),
}


@pytest.mark.parametrize("end", list(ENDS_WHILE_WAITING))
def test_a_job_that_ends_while_its_publish_settles_leaves_it_to_a_person(
    bench: Bench, publishing: OwnedAttempt, end: str
) -> None:
    """The step waits for the settling time to look at the target, and no attempt will do so."""
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    bench.write(lambda c: finish_steps.retry(c, publishing, outcome="snoozed", error=None, delay_seconds=30))
    ENDS_WHILE_WAITING[end](bench, publishing)
    assert bench.job(publishing.job_id)["finished_at"] is not None
    assert (entry(bench)["status"], draft(bench)["status"]) == ("unknown", "needs_review")
    (alert,) = bench.database.read(lambda c: c.execute(select(Alert.__table__)).mappings().all())
    assert (alert["kind"], alert["job_id"]) == ("needs_review", publishing.job_id)
    bench.write(lambda c: publications.settle_by_hand(c, entry(bench)["id"], url=None, external_id=None))
    assert (entry(bench)["status"], draft(bench)["status"]) == ("intent", "pending_publish")


def test_a_person_settles_an_unknown_outcome(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    bench.write(lambda c: publications.unknown(c, publishing, "cannot say"))
    known = entry(bench)["id"]
    bench.write(lambda c: publications.settle_by_hand(c, known, url="http://x/1", external_id=None))
    assert (entry(bench)["status"], entry(bench)["url"], draft(bench)["status"]) == (
        "confirmed",
        "http://x/1",
        "published",
    )
    with pytest.raises(PublicationNotUnknown, match="confirmed"):
        bench.write(lambda c: publications.settle_by_hand(c, known, url=None, external_id=None))
    with pytest.raises(NotFound):
        bench.write(lambda c: publications.settle_by_hand(c, "nothing", url=None, external_id=None))


def test_a_post_that_is_not_there_may_be_published_anew(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    bench.write(lambda c: finish_steps.cancel(c, publishing))
    assert entry(bench)["status"] == "unknown"
    bench.write(lambda c: publications.settle_by_hand(c, entry(bench)["id"], url=None, external_id=None))
    assert (entry(bench)["status"], draft(bench)["status"]) == ("intent", "pending_publish")


def test_a_draft_that_was_edited_meanwhile_is_not_published_as_it_was(bench: Bench, publishing: OwnedAttempt) -> None:
    bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://blog"))
    with pytest.raises(DraftChanged, match="version 7"):
        bench.write(lambda c: publications.started(c, publishing, 7))
    assert (entry(bench)["status"], draft(bench)["status"]) == ("intent", "pending_publish")


def test_an_entry_follows_the_target_until_it_is_started(bench: Bench, publishing: OwnedAttempt) -> None:
    first = bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://one"))
    moved = bench.write(lambda c: publications.open_entry(c, publishing, publisher="wordpress", base_url="http://two"))
    assert (moved["id"], moved["publisher"], moved["base_url"]) == (first["id"], "wordpress", "http://two")
    bench.write(lambda c: publications.started(c, publishing, draft(bench)["version"]))
    kept = bench.write(lambda c: publications.open_entry(c, publishing, publisher="demo", base_url="http://one"))
    assert (kept["publisher"], kept["base_url"], kept["status"]) == ("wordpress", "http://two", "started")
