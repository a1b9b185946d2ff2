"""Explains why a job waits: the reasons, its position in the tenant queue, and an estimate of the wait.

Times, pauses and limits come from SQL, the order and the rates from Redis. If Redis is unreachable, that is one of the
reasons, and the others come from SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from dramatiq.errors import BrokerConnectionError

from tenants.database.transactions import Database
from tenants.queues import QueueDescription, QueueError, Reason, TenantBroker
from tenants.queues.notices import warn
from tenants.store.jobs.explain import Situation, situation
from tenants.store.steps import provider_backoffs
from tenants.store.steps.durations import recent_mean

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The broker's mean duration of a lane before the first message has ended (`lane.mean` in `include/lane.lua`).
UNMEASURED_SECONDS = 0.001
#: The broker's codes, and the API's where they differ.
_CODES = {
    "behind_other_messages": "behind_other_jobs",
    "lane_at_concurrency": "at_concurrency",
    "delayed": "scheduled",
    "damaged": "not_dispatched",
}
_NOT_SENT = "it is committed, and goes to Redis within seconds"
#: Reasons for which Redis has `queue_paused`.
_QUEUE_PAUSES = frozenset({"login_required", "circuit_open"})


@dataclass(frozen=True, slots=True)
class Why:
    """One reason, as the API shows it."""

    code: str
    message: str
    until: datetime | None = None
    count: int | None = None


class JobExplainer:
    """Explains from SQL and Redis why jobs wait. `redis_is_away`: whether Redis is known to be unreachable."""

    def __init__(
        self,
        database: Database,
        broker: TenantBroker,
        redis_is_away: Callable[[], bool],
        scope_of: Callable[[str, str], str | None] = lambda pipeline, step: None,
    ) -> None:
        self._database = database
        self._broker = broker
        self._redis_is_away = redis_is_away
        #: Provider and credential of a pipeline's step; None for a step that uses none.
        self._scope_of = scope_of

    def why(self, job_id: str, account: str | None = None) -> list[Why]:
        """All reasons why the job does not run now; none when it runs or has ended.

        Raises:
            NotFound: no such job, or not this account's. `account` None stands for an admin.
        """
        found = self._database.read(lambda connection: situation(connection, job_id, account))
        return list(self._reasons(found))

    def queue_position(self, job: dict[str, Any]) -> dict[str, Any]:
        """`queue_position` and `estimated_wait` of a job as the API shows it; None where unknown.

        The estimate uses the mean duration of the account's own steps on the lane, or else of all the lane's.
        """
        unknown = {"queue_position": None, "estimated_wait": None}
        step = next((each for each in job["steps"] if each["status"] in ("queued", "retrying")), None)
        if job["status"] != "queued" or step is None:
            return unknown

        lane, account = step["lane"], job["account"]

        def ask() -> tuple[int, QueueDescription] | None:
            admin = self._broker.queues_admin
            position = admin.position(lane, account, step["id"])
            queue = admin.describe(lane, account) if position is not None else None
            return None if position is None or queue is None else (position, queue)

        found = self._ask_redis(ask)
        if found is None:
            return unknown
        position, queue = found
        # Running steps are half done on average; those before this one run in rounds of `concurrency`.
        rounds = position / queue.limits.concurrency + (0.5 if queue.active else 0.0)
        return {"queue_position": position, "estimated_wait": self._estimate(rounds, lane, account, queue)}

    def _estimate(self, rounds: float, lane: str, account: str, queue: QueueDescription) -> float | None:
        if not rounds:
            return 0.0
        mean = self._database.read(lambda connection: recent_mean(connection, lane, account))
        if mean is None and queue.mean_seconds != UNMEASURED_SECONDS:
            mean = queue.mean_seconds
        return None if mean is None else round(rounds * mean, 1)

    # --- the reasons -----------------------------------------------------------------------------------------------

    def _reasons(self, found: Situation) -> Iterator[Why]:
        status, step = found.job["status"], found.step
        if status == "scheduled":
            yield Why("scheduled", "its time has not come", until=found.job["run_at"])
        elif status == "awaiting_approval":
            yield Why("awaiting_approval", f"its step {found.job['current_step']!r} waits for :approve or :reject")
        elif status == "queued" and step is not None:
            in_sql = [*_from_settings(found), *_from_capacity(found)]
            yield from in_sql
            yield from self._from_provider(found.job["pipeline"], step["name"])
            codes = {each.code for each in in_sql}
            # Redis has a pause without its reason.
            yield from self._from_redis(found, codes | ({"queue_paused"} if codes & _QUEUE_PAUSES else set()))

    def _from_provider(self, pipeline: str, step: str) -> Iterator[Why]:
        scope = self._scope_of(pipeline, step)
        if scope is None:
            return
        reason = self._database.read(lambda connection: provider_backoffs.refusal(connection, scope))
        if reason is not None:
            yield Why("provider_refused", f"its credential ({scope}) is refused, so it will fail: {reason}")

    def _from_redis(self, found: Situation, known: set[str]) -> Iterator[Why]:
        step = found.step
        assert step is not None
        lane, account = step["lane"], found.job["account"]

        def ask() -> tuple[list[Reason], bool]:
            admin = self._broker.queues_admin
            reasons = admin.explain(lane, account, step["id"])
            return reasons, bool(reasons) or step["id"] in admin.contains(lane, account, [step["id"]])

        answer = self._ask_redis(ask)
        if answer is None:
            yield Why("redis_unavailable", "Redis cannot be reached; the job runs once it is back")
            return
        reasons, held = answer
        if not held and found.due_at is None:
            lost = step["dispatched_at"] is not None
            message = "Redis has lost its message; it is sent again within a minute" if lost else _NOT_SENT
            yield Why("not_dispatched", message)
        else:
            new = [why for why in map(_of_redis, reasons) if why.code not in known]
            yield from new
            if not known and not new:
                yield Why("behind_other_jobs", _behind_others(found), count=0)

    def _ask_redis(self, ask: Callable[[], T]) -> T | None:
        """The answer from Redis; None when it is unreachable."""
        if self._redis_is_away():
            return None
        try:
            return ask()
        except (BrokerConnectionError, QueueError) as error:
            warn(log, error, "Redis did not answer why a job waits: %s", error)
            return None


def _from_settings(found: Situation) -> Iterator[Why]:
    """Reasons from due times, pauses and circuits."""
    step, lane = found.step, found.step["lane"] if found.step is not None else ""
    if step is not None and found.due_at is not None:
        if found.last_outcome == "provider_busy":
            yield Why("provider_backoff", "a quota of its provider is used up", until=found.due_at)
        elif step["status"] == "retrying":
            yield Why("retry_backoff", f"attempt {step['attempt']} did not work", until=found.due_at)
        else:
            yield Why("scheduled", step["note"] or "its time has not come", until=found.due_at)
    if found.account_status == "paused":
        yield Why("account_paused", "the account is paused until :resume")
    if found.account_status == "suspended":
        yield Why("account_suspended", "the account is suspended until :resume")
    if found.queue_pause is not None:
        until, reason = found.queue_pause
        if reason == "login_required":
            yield Why("login_required", "the account has to sign in: set its session", until=until)
        else:
            yield Why("queue_paused", f"tenant queue {lane}_{found.job['account']} is paused", until=until)
    if found.circuit is not None:
        status, until = found.circuit
        what = "nothing of the lane starts" if status == "open" else "one job runs as a trial"
        yield Why("circuit_open", f"too many of the account's steps failed in a row: {what}", until=until)
    if found.lane_paused:
        yield Why("lane_paused", f"lane {lane} is paused for all accounts")


def _from_capacity(found: Situation) -> Iterator[Why]:
    lane = found.step["lane"] if found.step is not None else ""
    if found.running >= found.concurrency:
        message = f"{found.running} of its tenant queue run(s), and at most {found.concurrency} may"
        yield Why("at_concurrency", message, count=found.running)
    elif found.account_concurrency is not None and found.running_in_account >= found.account_concurrency:
        message = f"{found.running_in_account} of its account run(s), and at most {found.account_concurrency} may"
        yield Why("at_concurrency", message, count=found.running_in_account)
    if not found.threads:
        yield Why("no_worker", f"no live worker serves lane {lane}")


def _of_redis(reason: Reason) -> Why:
    code = _CODES.get(reason.code, reason.code)
    messages = {
        "behind_other_messages": f"{reason.count} of its tenant queue come(s) first",
        "at_concurrency": f"{reason.count} of its tenant queue run(s), which is the limit",
        "lane_at_concurrency": f"{reason.count} of the whole lane run(s), which is the limit",
        "rate_limited": "the rate of its tenant queue is used up",
        "retry_backoff": "the job before it is in a backoff, and the order is strict",
        "delayed": "its time has not come",
        "damaged": "Redis has lost a part of its tenant queue, which is repaired within a minute",
    }
    return Why(code, messages.get(reason.code, code.replace("_", " ")), until=reason.until, count=reason.count)


def _behind_others(found: Situation) -> str:
    if found.busy >= found.threads:
        return f"no job of its account is before it; all {found.threads} threads are busy with others"
    return "no job is before it; a worker is about to take it"
