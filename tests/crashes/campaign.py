"""Kill workers at chosen moments of publishing, while others continue, and check the result at the target.

A plan gives each of a number of posts a moment. As soon as that post is there, the worker that publishes it gets
SIGKILL, and another one is started. Each worker publishes one post at a time, so a kill hits exactly one; several
workers run side by side, because the database gives a dead worker up only after 15 s.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from tenants.database.models import Job, Publication, Step
from tenants.database.models import Worker as WorkerRow
from tenants.store.jobs.create import JobPlan
from tenants.store.jobs.read import FINISHED

from .installation import Installation, Remains, until
from .targets import PASSWORD, Target

jobs, publications, steps, workers = Job.__table__, Publication.__table__, Step.__table__, WorkerRow.__table__


class PostFailed(AssertionError):
    """A planned post came to another end than being published, and before its worker was killed."""


#: A post that was through before it could be killed is planned again, this often in all.
TRIES = 4
#: Seconds that a request is held at its moment. Less than the publishers' settling times, which are part of their
#: contract: a target at which a request may take effect later than that must say so.
DWELL_SECONDS = (1.0, 4.0)
#: The progress notes of `actors.publishing` that mark a moment.
_NOTES = {"session": "checking the session", "writing": "writing the post", "reading": "reading "}


@dataclass(slots=True)
class Planned:
    """A post whose worker is to be killed at a moment."""

    moment: str
    account: str
    title: str
    job_id: str
    tries: int = 1
    killed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it. `lost`, `doubled`, `unfinished` and `left_over` must be empty."""

    target: str
    database: str
    kills: int
    #: Kills by moment.
    moments: dict[str, int]
    #: Posts that were always through before their worker could be killed.
    missed: int
    posts: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    #: Jobs that did not complete, with their error.
    unfinished: tuple[str, ...]
    #: Processes that outlived their killed worker (a minute is waited; ten seconds are what is promised).
    left_over: tuple[str, ...]
    #: From each kill to its job's completion.
    recovery_seconds: tuple[float, ...]
    #: From each kill to the end of the last process below the worker.
    cleared_seconds: tuple[float, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.unfinished or self.left_over)


@dataclass
class Campaign:
    """One campaign against one target; `run` it once."""

    installation: Installation
    target: Target
    kills: int
    seed: int = 1
    workers: int = 3
    #: Posts of the same account that wait behind each planned one.
    followers: int = 1
    #: The moments to choose in turn; empty: all that the target has.
    moments: Sequence[str] = ()
    say: Callable[[str], None] = lambda _: None
    _planned: list[Planned] = field(default_factory=list, init=False)
    _titles: list[str] = field(default_factory=list, init=False)
    _job_ids: list[str] = field(default_factory=list, init=False)
    _remains: list[Remains] = field(default_factory=list, init=False)
    _cleared: list[float] = field(default_factory=list, init=False)

    def run(self, *, seconds: float = 600.0) -> Verdict:
        """Kill, wait for the end of all jobs, and judge.

        Raises:
            NotInTime: the kills or the jobs were not done in `seconds`.
            PostFailed: a post that nobody had disturbed yet.
        """
        began = time.monotonic()
        self._random = random.Random(self.seed)
        moments = self.moments or self.target.moments
        for number in range(self.kills):
            self._plan(number, moments[number % len(moments)])
        for _ in range(self.workers):
            self.installation.launch_worker()
        until(self._strike, "every planned kill", seconds, self._state)
        until(self._all_ended, "every job to end", seconds, self._state)
        until(lambda: not self._uncleared(), "the killed workers' processes to end", 60, self._state)
        return self._judge(time.monotonic() - began)

    # --- planning ------------------------------------------------------------------------------------------------

    def _plan(self, number: int, moment: str) -> None:
        account = user = f"{self.target.name}-{number:03}"
        self.target.add_user(user)
        self.installation.set_target(account, self.target.name, self.target.url, user, PASSWORD)
        self.target.arm(user, moment, self._random.uniform(*DWELL_SECONDS))
        title = f"Post {account}"
        self._planned.append(Planned(moment, account, title, self._make(account, title)))
        for each in range(self.followers):
            self._make(account, f"{title} follower {each}")

    def _make(self, account: str, title: str) -> str:
        body = f"The text of **{title}**.\n\nIt has two paragraphs."
        job, _ = self.installation.runtime.jobs.create(account, JobPlan("post", {"title": title, "body": body}))
        self._titles.append(title)
        self._job_ids.append(str(job["id"]))
        return str(job["id"])

    # --- killing -------------------------------------------------------------------------------------------------

    def _strike(self) -> bool:
        """Look at the planned posts once and kill where the moment has come; True when nothing is left to do."""
        self.installation.check_workers()
        waiting = [planned for planned in self._planned if planned.killed_at is None and planned.tries <= TRIES]
        if not waiting:
            return True
        rows = self._look([planned.job_id for planned in waiting])
        for planned in waiting:
            row = rows[planned.job_id]
            if row["job_status"] == "completed":
                self._plan_again(planned)
            elif row["job_status"] in FINISHED:
                error = self.installation.runtime.jobs.get(planned.job_id)["error"]
                raise PostFailed(f"{planned.title!r}: {row['job_status']}, {error}\n{self._state()}")
            elif row["status"] == "running" and self._has_come(planned, row):
                self._kill(planned, int(row["pid"]))
        self._uncleared()
        return False

    def _has_come(self, planned: Planned, row: Any) -> bool:
        seen = self.target.reached(planned.account, planned.moment)
        if seen is not None:
            return seen
        if planned.moment in ("started", "confirmed"):
            return bool(row["publication"] == planned.moment)
        return str(row["note"]).startswith(_NOTES[planned.moment])

    def _kill(self, planned: Planned, pid: int) -> None:
        worker = self.installation.worker_of(pid)
        if worker is None:
            return  # it is dead already, and its row is older than that
        self._remains.append(self.installation.kill(worker))
        planned.killed_at = datetime.now(UTC)
        self.say(f"killed worker {pid} at {planned.moment!r} of {planned.title!r}")
        self.installation.launch_worker()

    def _plan_again(self, planned: Planned) -> None:
        planned.tries += 1
        self.say(f"{planned.title!r} was through before {planned.moment!r} could be caught")
        if planned.tries <= TRIES:
            self.target.arm(planned.account, planned.moment, DWELL_SECONDS[1])
            planned.title = f"{planned.title} again"
            planned.job_id = self._make(planned.account, planned.title)

    def _look(self, job_ids: Sequence[str]) -> dict[str, Any]:
        statement = (
            select(
                jobs.c.id,
                jobs.c.status.label("job_status"),
                steps.c.status,
                steps.c.note,
                workers.c.pid,
                publications.c.status.label("publication"),
            )
            .join(steps, steps.c.job_id == jobs.c.id)
            .join(workers, workers.c.id == steps.c.worker_id, isouter=True)
            .join(publications, publications.c.job_id == jobs.c.id, isouter=True)
            .where(jobs.c.id.in_(job_ids), steps.c.name == "publish")
        )

        def work(connection: Connection) -> dict[str, Any]:
            return {row["id"]: row for row in connection.execute(statement).mappings()}

        return self.installation.runtime.database.read(work)

    def _uncleared(self) -> list[Remains]:
        """What killed workers left and is not gone yet; notes how long it took where it is."""
        left = []
        for remains in self._remains:
            if remains.alive():
                left.append(remains)
            else:
                self._cleared.append(time.monotonic() - remains.killed_at)
        self._remains = left
        return left

    # --- judging -------------------------------------------------------------------------------------------------

    def _all_ended(self) -> bool:
        self.installation.check_workers()
        self._uncleared()
        rows = self._look(self._job_ids)
        return all(rows[each]["job_status"] in FINISHED for each in self._job_ids)

    def _judge(self, seconds: float) -> Verdict:
        ended = {each: self.installation.runtime.jobs.get(each) for each in self._job_ids}
        for planned in self._planned:
            self._print_attempts(planned, ended[planned.job_id])
        found = self.target.posts()
        return Verdict(
            target=self.target.name,
            database=self.installation.runtime.database.dialect,
            kills=sum(planned.killed_at is not None for planned in self._planned),
            moments=dict(Counter(planned.moment for planned in self._planned if planned.killed_at is not None)),
            missed=sum(planned.killed_at is None for planned in self._planned),
            posts=sum(found[title] for title in self._titles),
            lost=tuple(title for title in self._titles if not found[title]),
            doubled=tuple(title for title in self._titles if found[title] > 1),
            unfinished=tuple(
                f"{job['id']}: {job['status']} {job['error']}" for job in ended.values() if job["status"] != "completed"
            ),
            left_over=tuple(str(process) for remains in self._remains for process in remains.alive()),
            recovery_seconds=tuple(
                (ended[planned.job_id]["finished_at"] - planned.killed_at).total_seconds()
                for planned in self._planned
                if planned.killed_at is not None and ended[planned.job_id]["finished_at"] is not None
            ),
            cleared_seconds=tuple(self._cleared),
            seconds=seconds,
        )

    def _print_attempts(self, planned: Planned, job: dict[str, Any]) -> None:
        """Say what the killed post's attempts did, by seconds after the kill."""
        if planned.killed_at is None:
            return
        shown = [
            f"{attempt['outcome']} {self._after(planned, attempt['started_at'])}…"
            f"{self._after(planned, attempt['finished_at'])}"
            for attempt in job["steps"][-1]["attempts"]
        ]
        self.say(f"{planned.title!r}, killed at {planned.moment!r}: {', '.join(shown)} s")

    @staticmethod
    def _after(planned: Planned, moment: datetime | None) -> str:
        if moment is None or planned.killed_at is None:
            return "?"
        return f"{(moment - planned.killed_at).total_seconds():+.1f}"

    def _state(self) -> str:
        rows = self._look(self._job_ids)
        open_jobs = [dict(row) for row in rows.values() if row["job_status"] not in FINISHED]
        logs = "\n".join(self.installation.log_of(worker) for worker in self.installation.workers)
        return f"{len(open_jobs)} open: {open_jobs[:10]}\n{logs}"
