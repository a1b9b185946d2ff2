"""No path leads past an approval: every steering call, worker and clock in any order, against a model in plain Python.

After each call the rows must say what the model says. Apart from the model, each start of a last step and each publish
is held against what was approved, so that a fault that model and store share would show too.

One class, however long: Hypothesis draws the rules of a machine from one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, func, select, update

from orchestrator.control.jobs import Jobs
from tenants.database.columns import db_now
from tenants.database.models import DeadLetter, Draft, Job, Publication, Step
from tenants.store.accounts import accounts, queues
from tenants.store.attempt import NotRunnable, OwnedAttempt, Refused
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.jobs import bulk_cancel
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs import timers as clock
from tenants.store.jobs.create import JobPlan, StepPlan
from tenants.store.publishing import drafts, publications
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import undeliverable
from tests.tenants.conftest import Bench
from tests.tenants.store.approval_model import Answer, JobModel
from tests.tenants.store.approval_model import Step as StepModel
from tests.tenants.store.no_redis import NoRedis

ERROR = {"code": "internal", "message": "it broke"}
KINDS = {
    "one step": ["publish"],
    "two steps": ["generate", "publish"],
    "best effort between": ["generate", "extra", "publish"],
}
_numbers = itertools.count(1)
ENDED = ("failed", "timed_out", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Call:
    """A method of the machine, with its arguments. `can`: where it may be called; `does`: where it is not refused."""

    name: str
    arguments: tuple[Any, ...] = ()
    can: Callable[[JobModel], bool] = lambda model: True
    does: Callable[[JobModel], bool] = lambda model: True

    def __str__(self) -> str:
        return f"{self.name}{self.arguments}"


def runs(model: JobModel) -> bool:
    return model.running is not None


def publishes(model: JobModel) -> bool:
    return model.running is model.last


def awaits(model: JobModel) -> bool:
    return model.status == "awaiting_approval"


def is_pending(model: JobModel) -> bool:
    return model.draft is not None and model.draft.status == "pending_publish"


def waits_on(model: JobModel, lane: str) -> bool:
    return model.waiting is not None and model.waiting.name == lane


def may_start(model: JobModel) -> bool:
    return model.waiting is not None and model.account not in ("paused", "suspended") and not model.queue_paused


WORKER = [
    *[Call("start", (number,), does=lambda model: False) for number in range(3)],
    *[Call("start_what_waits", can=lambda model: model.waiting is not None, does=may_start)] * 3,
    Call("complete", can=lambda model: runs(model) and (not publishes(model) or model.ledger in (None, "confirmed"))),
    *[Call("try_again_later", (each,), can=runs) for each in ("failed", "timed_out", "snoozed", "provider_busy")],
    *[Call("fail", (outcome,), can=runs) for outcome in ("failed", "timed_out")],
    *[Call("lose", (handed_back,), can=runs) for handed_back in (True, False)],
    Call("kill", can=lambda model: runs(model) and model.cancel_wanted),
    Call("run_into_the_deadline", can=runs),
    *[
        Call("bury", (number,), does=lambda model, n=number: model.waiting is model.steps[n % len(model.steps)])  # type: ignore[misc]
        for number in range(3)
    ],
    *[
        Call("create_draft", (text,), can=runs, does=lambda model: not model.draft or is_pending(model))
        for text in "ab"
    ],
    Call("load_draft", can=runs),
    Call("open_entry", can=publishes, does=lambda model: model.draft is not None and model.ledger is None),
    *[
        Call(
            "publish_starts",
            can=lambda model: publishes(model) and model.loaded is not None,
            does=lambda model: model.ledger == "intent",
        )
    ]
    * 3,
    *[
        Call("publish_ends", (ledger,), can=publishes, does=lambda model: model.ledger in ("started", "unknown"))
        for ledger in ("absent", "unknown", "confirmed")
    ],
]
STEERING = [
    Call("cancel", does=lambda model: not model.finished and not model.cancel_wanted),
    *[Call("approve", (stale,), does=awaits) for stale in (None, False, True)],
    *[Call("reject", does=awaits)] * 2,
    *[Call("retry", does=lambda model: model.status in ENDED)] * 3,
    *[Call("resolve_letter", (discard,), does=lambda model: model.letter) for discard in (False, False, True)],
    *[
        Call(
            "settle_publication",
            (is_there,),
            can=lambda model: model.ledger is not None,
            does=lambda model: model.ledger == "unknown" and model.finished,
        )
        for is_there in (True, False)
    ],
    *[
        Call("edit_draft", (text, stale), can=lambda model: model.draft is not None, does=is_pending)
        for text, stale in (("a", None), ("b", False), ("b", True))
    ],
    *[
        Call("empty_queue", (lane,), does=lambda model, lane=lane: waits_on(model, lane))  # type: ignore[misc]
        for lane in ("generate", "extra", "publish")
    ],
    *[
        Call("steer_account", (status,), does=lambda model, status=status: model.account != status)  # type: ignore[misc]
        for status in ("active", "paused", "draining", "suspended")
    ],
    *[
        Call("steer_queue", (paused,), does=lambda model, paused=paused: model.queue_paused != paused)  # type: ignore[misc]
        for paused in (False, True)
    ],
    Call("deadline_passes", can=lambda model: not runs(model), does=lambda model: not model.finished),
    Call("expire", can=lambda model: not model.has_started, does=lambda model: not model.finished),
]
CALLS = [*WORKER, *STEERING]


class Machine(RuleBasedStateMachine):
    """Set by the test: the bench."""

    bench: ClassVar[Bench]

    @initialize(
        kind=st.sampled_from(["one step", "two steps", "two steps", "best effort between"]),
        approval=st.sampled_from([True, True, True, False]),
        reached=st.sampled_from(["made", "awaiting", "approved", "approved", "publishing", "publishing"]),
    )
    def begin(self, kind: str, approval: bool, reached: str) -> None:
        self.steering = Jobs(self.bench.database, {}, NoRedis())  # type: ignore[arg-type]
        self.account = f"account {next(_numbers)}"
        names = KINDS[kind]
        plans = tuple(StepPlan(name, name, name != "extra", 3) for name in names)
        plan = JobPlan("blog", {}, plans, approval=approval, deadline=3600.0, expires_in=3600.0)
        made = self.bench.write(lambda c: create_jobs.create(c, self.account, [plan]))
        self.job_id = made.ids[0]
        self.step_ids = [step["id"] for step in made.jobs[0].steps]
        self.model = JobModel([StepModel(name, name != "extra") for name in names], approval)
        self.latest: OwnedAttempt | None = None
        self.go_to(reached)

    def go_to(self, reached: str) -> None:
        """Most of what can go wrong needs a draft, an approval or a publish: begin there."""
        if reached == "made":
            return
        for number in range(len(self.step_ids) - 1):
            self.start(number)
            if number == 0:
                self.create_draft("a")
            self.complete()
        if reached == "awaiting":
            return
        self.approve(None)
        if reached == "publishing":
            self.start(len(self.step_ids) - 1)
            self.load_draft()
            self.open_entry()
            if self.model.draft is not None:
                self.publish_starts()

    @property
    def owned(self) -> OwnedAttempt:
        """The attempt that runs."""
        assert self.latest is not None
        return self.latest

    def write(self, work: Callable[[Any], Any]) -> Any:
        return self.bench.write(work)

    def same(self, wanted: Answer, call: Callable[[], Any]) -> Any:
        """Make the call; it must raise the error that the model wants, or none."""
        if isinstance(wanted, str):
            return call()
        with pytest.raises(wanted):
            call()
        return None

    @rule(data=st.data(), anything=st.sampled_from([False, False, False, True]))
    def call(self, data: st.DataObject, anything: bool) -> None:
        """Mostly a call that gets something done: of all calls three in four are refused, and lead nowhere."""
        possible = [each for each in CALLS if each.can(self.model) and (anything or each.does(self.model))]
        # Their names are drawn, which a failing example shows.
        name = data.draw(st.sampled_from([str(each) for each in possible]))
        chosen = next(each for each in possible if str(each) == name)
        getattr(self, chosen.name)(*chosen.arguments)

    # -- workers

    def start(self, number: int) -> None:
        number %= len(self.step_ids)
        is_last = number == len(self.step_ids) - 1
        edition = 0 if self.model.draft is None else self.model.draft.edition
        wanted = self.model.start(number)
        started = self.bench.start(self.step_ids[number])
        assert {OwnedAttempt: "owned", Refused: "refused", NotRunnable: "gone"}[type(started)] == wanted, started
        if isinstance(started, OwnedAttempt):
            self.latest = started
            assert not (is_last and self.model.approval) or edition in self.model.seen, "it was not approved"

    def start_what_waits(self) -> None:
        assert self.model.waiting is not None
        self.start(self.model.steps.index(self.model.waiting))

    def complete(self) -> None:
        self.model.complete()
        self.bench.complete(self.owned, {})

    def try_again_later(self, outcome: Any) -> None:
        wanted = self.model.wait(outcome)
        owned = self.owned
        waits = self.write(lambda c: finish_steps.retry(c, owned, outcome=outcome, error=ERROR, delay_seconds=0))
        assert waits is (wanted == "waits")

    def fail(self, outcome: Any) -> None:
        self.model.fail(outcome)
        owned = self.owned
        self.write(lambda c: finish_steps.fail(c, owned, outcome=outcome, error=ERROR, traceback=None, message={}))

    def lose(self, handed_back: bool) -> None:
        self.model.lose(handed_back=handed_back)
        owned = self.owned
        self.write(lambda c: finish_steps.lose(c, owned.step_id, owned.run_token, handed_back=handed_back))

    def kill(self) -> None:
        self.model.end_running("cancelled")
        owned = self.owned
        self.write(lambda c: finish_steps.cancel(c, owned))

    def run_into_the_deadline(self) -> None:
        self.model.end_running("timed_out")
        owned = self.owned
        self.write(lambda c: finish_steps.time_out_job(c, owned))

    def bury(self, number: int) -> None:
        number %= len(self.step_ids)
        self.model.bury(number)
        lane, step_id = self.model.steps[number].name, self.step_ids[number]
        buried = undeliverable.UndeliverableMessage(
            lane, self.account, step_id, str(next(_numbers)), datetime.now(UTC), "undecodable", b'{"args": []}'
        )
        self.write(lambda c: undeliverable.record(c, buried))

    # -- the attempt's own calls

    def create_draft(self, text: str) -> None:
        wanted, owned = self.model.create_draft(text), self.owned
        self.same(
            wanted, lambda: self.write(lambda c: publications.create_draft(c, owned, title=text, body=text, tags=[]))
        )

    def load_draft(self) -> None:
        wanted, owned = self.model.load_draft(), self.owned
        self.same(wanted, lambda: self.bench.database.read(lambda c: publications.load_draft_for_step(c, owned)))

    def open_entry(self) -> None:
        wanted, owned = self.model.open_entry(), self.owned
        self.same(
            wanted,
            lambda: self.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog")),
        )

    def publish_starts(self) -> None:
        text = None if self.model.draft is None else self.model.draft
        edition, status = (text.edition, text.status) if text is not None else (0, "")
        wanted, owned, version = self.model.publish_starts(), self.owned, self.model.loaded or 0
        self.same(wanted, lambda: self.write(lambda c: publications.started(c, owned, version)))
        if wanted == "done":
            assert status != "discarded"
            assert not self.model.approval or edition in self.model.seen, "this text was not approved"

    def publish_ends(self, ledger: str) -> None:
        if self.model.ledger == "intent":
            return  # the target was not asked, so there is nothing to write down
        wanted, owned = self.model.publish_ends(ledger), self.owned
        calls: dict[str, Callable[[Any], Any]] = {
            "absent": lambda c: publications.absent(c, owned),
            "unknown": lambda c: publications.unknown(c, owned, "who knows"),
            "confirmed": lambda c: publications.confirmed(c, owned, url="http://blog/1", external_id=None),
        }
        self.same(wanted, lambda: self.write(calls[ledger]))

    # -- steering

    def cancel(self) -> None:
        wanted = self.model.cancel()
        answer = self.same(wanted, lambda: self.steering.cancel(self.job_id))
        assert answer is None or answer[1] is (wanted == "ended")

    def approve(self, stale: bool | None) -> None:
        draft = self.model.draft
        version = None if stale is None or draft is None else draft.version - stale
        wanted = self.model.approve(version)
        self.same(wanted, lambda: self.steering.approve(self.job_id, version=version))

    def reject(self) -> None:
        self.same(self.model.reject(), lambda: self.steering.reject(self.job_id))

    def retry(self) -> None:
        self.same(self.model.retry(), lambda: self.steering.retry(self.job_id))

    def resolve_letter(self, discard: bool) -> None:
        letter = self.letter(is_open=True) or self.letter(is_open=False)
        if letter is None:
            return
        wanted = self.model.discard_letter() if discard else self.model.replay()
        self.same(
            wanted,
            (lambda: self.write(lambda c: dead_letters.resolve(c, letter, "discarded")))
            if discard
            else (lambda: self.steering.replay(letter)),
        )

    def letter(self, *, is_open: bool) -> str | None:
        table = DeadLetter.__table__
        state = table.c.resolution.is_(None) if is_open else table.c.resolution.is_not(None)
        statement = select(table.c.id).where(table.c.job_id == self.job_id, state).limit(1)
        found: str | None = self.bench.database.read(lambda c: c.execute(statement).scalar_one_or_none())
        return found

    def settle_publication(self, is_there: bool) -> None:
        entry, wanted = self.ledger(), self.model.settle(is_there=is_there)
        url = "http://blog/1" if is_there else None
        self.same(wanted, lambda: self.steering.settle_publication(entry["id"], url=url))

    def edit_draft(self, text: str, stale: bool | None) -> None:
        assert self.model.draft is not None
        version = None if stale is None else self.model.draft.version - stale
        wanted, draft = self.model.edit(text, version), self.draft()
        changes = {"title": text, "body": text}
        self.same(
            wanted,
            lambda: self.write(lambda c: drafts.change(c, draft["id"], self.account, version=version, changes=changes)),
        )

    def empty_queue(self, lane: str) -> None:
        self.model.empty_queue(lane)
        self.write(lambda c: bulk_cancel.cancel_waiting(c, lane, self.account, limit=10))

    def steer_account(self, status: str) -> None:
        self.model.account = status
        self.write(lambda c: accounts.set_status(c, self.account, status))

    def steer_queue(self, paused: bool) -> None:
        self.model.queue_paused = paused
        self.write(lambda c: queues.set_paused(c, "publish", self.account, paused))

    # -- time

    def deadline_passes(self) -> None:
        self.model.deadline()
        self.set_job(deadline_at=db_now(-1))
        self.write(lambda c: clock.end_at_deadline(c, limit=10))

    def expire(self) -> None:
        self.model.expire()
        self.set_job(expires_at=db_now(-1))
        self.write(lambda c: clock.expire_jobs(c, limit=10))

    def set_job(self, **values: Any) -> None:
        table = Job.__table__
        self.write(lambda c: c.execute(update(table).where(table.c.id == self.job_id).values(**values)))

    # -- what must hold

    def draft(self) -> Any:
        table = Draft.__table__
        statement = select(table).where(table.c.job_id == self.job_id)
        return self.bench.database.read(lambda c: c.execute(statement).mappings().one_or_none())

    def ledger(self) -> Any:
        table = Publication.__table__
        statement = select(table).where(table.c.job_id == self.job_id)
        return self.bench.database.read(lambda c: c.execute(statement).mappings().one_or_none())

    @invariant()
    def the_rows_say_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        model, draft = self.model, self.model.draft
        assert self.bench.database.read(self.rows) == (
            (model.status, model.approved),
            [step.status for step in model.steps],
            None if draft is None else (draft.status, draft.version, draft.edition, draft.text),
            model.ledger,
            int(model.letter),
        )

    def rows(self, connection: Connection) -> tuple[Any, ...]:
        jobs, steps, letters = Job.__table__, Step.__table__, DeadLetter.__table__
        kept, entries = Draft.__table__, Publication.__table__
        shown = select(kept.c.status, kept.c.version, kept.c.content_version, kept.c.title)
        is_open = (letters.c.job_id == self.job_id, letters.c.resolution.is_(None))
        asked = [
            select(jobs.c.status, jobs.c.approved_version).where(jobs.c.id == self.job_id),
            select(steps.c.status).where(steps.c.job_id == self.job_id).order_by(steps.c.position),
            shown.where(kept.c.job_id == self.job_id),
            select(entries.c.status).where(entries.c.job_id == self.job_id),
            select(func.count()).where(*is_open),
        ]
        job, own, draft, ledger, count = (connection.execute(each).all() for each in asked)
        return (
            tuple(job[0]),
            [row.status for row in own],
            tuple(draft[0]) if draft else None,
            ledger[0].status if ledger else None,
            count[0][0],
        )

    @invariant()
    def what_must_never_be_is_not(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        assert (model.status == "awaiting_approval") == (model.last.status == "awaiting_approval")
        assert model.finished or model.draft is None or model.draft.status != "discarded"
        assert not model.finished or model.ledger != "started"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [8, pytest.param(25, marks=pytest.mark.campaign)])
def test_no_path_leads_past_an_approval(bench: Bench, examples: int) -> None:
    machine = type("ApprovalMachine", (Machine,), {"bench": bench})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
