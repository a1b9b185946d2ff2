"""The jobs of a run, from the seed, and the one who asks for them: again and again until each is accepted."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update

from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Account
from tenants.database.transactions import CommitUnknown
from tenants.errors import JobFinished, Unavailable
from tenants.store.accounts.accounts import ensure_account
from tenants.store.jobs.create import JobPlan

log = logging.getLogger(__name__)
accounts = Account.__table__

#: Every so many accounts has a concurrency above one on some lane.
WIDE_EVERY = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job that somebody will ask for, at an offset from the start."""

    at: float
    account: str
    pipeline: str
    key: str
    orders: dict[str, Any]
    priority: int
    delay: float | None
    cancel_after: float | None


def plan_jobs(seed: int, *, jobs: int, accounts: int, seconds: float) -> list[Wanted]:
    """The jobs of a seed, by time. A tenth of the accounts gets half of them, so that backlogs form."""
    chance = random.Random(f"jobs {seed}")
    names = [f"account-{number:04}" for number in range(accounts)]
    busy = names[: max(1, accounts // 10)]
    wanted = []
    for number in range(jobs):
        pipeline = chance.choices(("quick", "chain", "apart", "post"), (60, 15, 13, 12))[0]
        orders: dict[str, Any] = {"seconds": 0.0, "key": f"{seed}-{number}"}
        if pipeline == "post":
            orders |= {"before": chance.uniform(0, 0.8), "after": chance.uniform(0, 0.5)}
        else:
            orders["seconds"] = chance.choices((0.0, 0.05, 0.3, 2.0), (55, 20, 17, 8))[0] * chance.uniform(0.5, 1.5)
            orders["fail_once"] = chance.random() < 0.05
        wanted.append(
            Wanted(
                at=chance.uniform(0, seconds),
                account=chance.choice(busy if chance.random() < 0.5 else names),
                pipeline=pipeline,
                key=str(orders["key"]),
                orders=orders,
                priority=chance.choice((0, 5, 5, 5, 9)),
                delay=chance.uniform(0.5, 5) if chance.random() < 0.1 else None,
                cancel_after=chance.uniform(0, 3) if chance.random() < 0.02 else None,
            )
        )
    return sorted(wanted, key=lambda each: each.at)


def concurrency_of(account: str, lane: str) -> int:
    """What `set_limits` gave the tenant queue."""
    number = int(account.rpartition("-")[2])
    return 3 if lane in ("apart", "quick") and number % WIDE_EVERY == 1 else 1


def set_limits(runtime: Runtime, jobs: Sequence[Wanted]) -> None:
    """Give every few accounts a concurrency above one, in SQL and Redis."""
    for account in sorted({each.account for each in jobs}):
        lanes = {lane: {"concurrency": concurrency_of(account, lane)} for lane in ("quick", "apart")}
        if all(lane["concurrency"] == 1 for lane in lanes.values()):
            continue

        def work(connection: Any, account: str = account, lanes: Any = lanes) -> None:
            ensure_account(connection, account)
            connection.execute(
                update(accounts).where(accounts.c.id == account).values(limits={"lanes": lanes}, updated_at=db_now())
            )

        runtime.database.write(work)
        runtime.settings_sync.sync_account(account)


@dataclass
class Feeder:
    """Asks for the jobs at their times, in a thread of its own, through connections that are attacked like all."""

    runtime: Runtime
    jobs: Sequence[Wanted]
    port: int
    #: By key: the id that was answered.
    accepted: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    refusals: int = 0
    #: Keys whose acceptance was left open by a connection that broke in a commit.
    unknown: set[str] = field(default_factory=set)
    #: Keys of jobs that were there although the service had said that nothing was accepted.
    lied: set[str] = field(default_factory=set)
    failure: str = ""
    _thread: threading.Thread | None = None
    _give_up: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._feed, name="feeder", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def stop(self) -> None:
        self._give_up.set()
        if self._thread is not None:
            self._thread.join(timeout=60)

    def _feed(self) -> None:
        began = time.monotonic()
        cancels: list[tuple[float, str]] = []
        try:
            for wanted in self.jobs:
                self._pause_until(began + wanted.at)
                job_id = self._ask(wanted)
                if job_id is None:
                    return
                self.accepted[wanted.key] = job_id
                if wanted.cancel_after is not None:
                    cancels.append((time.monotonic() + wanted.cancel_after, job_id))
                for due, each in list(cancels):
                    if time.monotonic() >= due:
                        cancels.remove((due, each))
                        self._cancel(each)
        except Exception as error:
            log.exception("the feeder failed")
            self.failure = f"{type(error).__name__}: {error}"

    def _pause_until(self, moment: float) -> None:
        left = moment - time.monotonic()
        if left > 0:
            self._give_up.wait(left)

    def _ask(self, wanted: Wanted) -> str | None:
        """Ask until it is accepted, as a client does that got a 503; the unique key makes that safe."""
        order = JobPlan(
            wanted.pipeline,
            {**wanted.orders, "port": self.port},
            priority=wanted.priority,
            delay=wanted.delay,
            unique_key=wanted.key,
        )
        while not self._give_up.is_set():
            try:
                job, created = self.runtime.jobs.create(wanted.account, order)
            except CommitUnknown:
                self.unknown.add(wanted.key)
            except Unavailable:
                self.refusals += 1
            else:
                if not created and wanted.key not in self.unknown:
                    self.lied.add(wanted.key)
                return str(job["id"])
            self._give_up.wait(0.2)
        return None

    def _cancel(self, job_id: str) -> None:
        try:
            self.runtime.jobs.cancel(job_id)
        except Unavailable:
            # It may or may not have been: either is right.
            self.cancelled.add(job_id)
        except JobFinished:
            return
        else:
            self.cancelled.add(job_id)
