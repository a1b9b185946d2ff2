"""The one write path of API, scheduler and command line: SQL commits first, Redis follows.

An answer from `create` means that the job is committed; whatever dies after that, it will run. One class, because it
is the one object that callers hold; each method is one transaction of `tenants.store`, then of messages to Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping
from sqlalchemy.exc import IntegrityError

from actors import Pipeline
from tenants import storable, webhooks
from tenants.account import parse_account
from tenants.database.models import derived_id, new_id
from tenants.database.transactions import CommitUnknown, Database
from tenants.errors import (
    Conflict,
    Fault,
    InvalidInput,
    InvalidPipelineInput,
    JobFinished,
    JobNotRetryable,
    NotAwaitingApproval,
    Unavailable,
    UnknownPipeline,
)
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.dispatch import Dispatch
from tenants.store.job_store import job_store
from tenants.store.jobs import approval as approvals
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs import finish as endings
from tenants.store.jobs import lists as job_lists
from tenants.store.jobs import read as store
from tenants.store.jobs.create import Created, JobPlan, StepPlan
from tenants.store.jobs.lists import JobFilter
from tenants.store.publishing import publications

from .dispatch import Dispatcher
from .views import job_summary, job_view

T = TypeVar("T")

#: Tries when two callers make the same `unique_key` at one moment, or a commit's answer is lost.
_TRIES = 5


class Jobs:
    """Makes, reads and steers jobs."""

    def __init__(self, database: Database, pipelines: Mapping[str, Pipeline], dispatcher: Dispatcher) -> None:
        self._database = database
        self._store = job_store(database)
        self._pipelines = pipelines
        self._dispatcher = dispatcher

    # --- making --------------------------------------------------------------------------------------------------

    def create(self, account: str, job: JobPlan, seed: str | None = None) -> tuple[dict[str, Any], bool]:
        """Accept a job. Returns the job, and whether it is new (False: it had the `unique_key` already).

        With a `seed`, an earlier call with the same seed may have created the job; then that one is returned.

        Raises:
            InvalidAccount, UnknownPipeline, InvalidPipelineInput: the input is wrong; nothing was created.
            AccountDraining, AccountSuspended, AccountBusy, QueueFull, QuotaExhausted: the account takes no job now.
            Unavailable: the database is away; nothing was accepted.
            CommitUnknown: the database went away, and the job may have been accepted.
        """
        created = self._create(account, [self.plan(job)], seed)
        (rows,) = created.jobs
        return job_view(rows.job, rows.steps, rows.attempts), rows.job["id"] in created.new

    def create_many(self, account: str, jobs: Sequence[JobPlan], seed: str | None = None) -> list[dict[str, Any]]:
        """Accept jobs, all or none; returns summaries in order, with the existing job for a taken `unique_key`.

        `seed` as in `create`.

        Raises:
            As `create`; a fault's location begins with ``jobs`` and the index.
        """
        faults: list[Fault] = []
        plans: list[JobPlan] = []
        unknown = 0
        for index, job in enumerate(jobs):
            try:
                plans.append(self.plan(job, ("jobs", index)))
            except UnknownPipeline as error:
                unknown += 1
                faults.extend(error.faults)
            except InvalidInput as error:
                faults.extend(error.faults)
        if faults:
            refusal = UnknownPipeline if unknown == len(faults) else InvalidPipelineInput
            raise refusal(f"{len(faults)} fault(s) in the batch; nothing was accepted", tuple(faults))
        return [job_summary(rows.job, rows.steps) for rows in self._create(account, plans, seed).jobs]

    @staticmethod
    def create_within(connection: Connection, account: str, plan: JobPlan) -> Sequence[Dispatch]:
        """Create a planned job within a transaction; returns what to send to Redis once that is committed.

        Raises:
            AccountDraining, AccountSuspended, QueueFull, QuotaExhausted: the account takes no job now. Something may
                have been written: the caller rolls it back.
        """
        return create_jobs.create(connection, account, [plan]).queued

    def _create(self, account: str, plans: Sequence[JobPlan], seed: str | None) -> Created:
        """Create jobs and send their first steps; the one loop that repeats a commit whose answer was lost."""
        account, unsure = parse_account(account), None
        if seed is not None:
            plans = [replace(plan, id=derived_id(seed, index)) for index, plan in enumerate(plans)]
        for tries in range(_TRIES):
            try:
                created = self._store.create(account, plans, again=seed is not None or unsure is not None)
            except CommitUnknown as error:
                # The same ids again: if the first transaction takes effect after all, this one is refused.
                unsure = error
            except Unavailable:
                if unsure is not None:
                    raise unsure from None  # "nothing was accepted" would be more than we know
                raise
            except IntegrityError:
                # Another caller took the unique key, or our own first try these ids, after we looked: look again.
                if tries == _TRIES - 1:
                    raise
            else:
                self._dispatcher.send(created.queued)
                return created
        raise unsure or AssertionError("unreachable: the last try returns or raises")

    def plan(self, job: JobPlan, loc: tuple[str | int, ...] = ()) -> JobPlan:
        """The job with its input validated, and with its pipeline's steps; a fault's location begins with `loc`.

        Raises:
            UnknownPipeline, InvalidPipelineInput, InvalidInput: it cannot be made.
        """
        pipeline = self._pipelines.get(job.pipeline) if job.pipeline != webhooks.PIPELINE else None
        if pipeline is None:
            known = ", ".join(sorted(self._pipelines.keys() - {webhooks.PIPELINE})) or "none"
            message = f"there is no pipeline {job.pipeline!r}; loaded are: {known}"
            raise UnknownPipeline(message, (Fault((*loc, "pipeline"), message),))
        if job.run_at is not None and job.delay is not None:
            message = "run_at and delay exclude each other; give one"
            raise InvalidInput(message, (Fault((*loc, "delay"), message),))
        try:
            validated = pipeline.input.model_validate(job.input)
        except ValidationError as error:
            faults = tuple(
                Fault((*loc, "input", *each["loc"]), each["msg"]) for each in error.errors(include_url=False)
            )
            raise InvalidPipelineInput(
                f"the input does not fit pipeline {job.pipeline!r}: "
                + "; ".join(f"{'.'.join(map(str, fault.loc))}: {fault.message}" for fault in faults[:5]),
                faults,
            ) from error
        content = validated.model_dump(mode="json", exclude_unset=True)
        _refuse_unstorable(content, (*loc, "input"), InvalidPipelineInput)
        _refuse_unstorable([job.unique_key, job.callback_url, *job.tags], loc, InvalidInput)
        steps = tuple(StepPlan(each.name, each.lane, each.required, each.max_attempts) for each in pipeline.steps)
        return replace(job, input=content, steps=steps, id=new_id())

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, job_id: str, account: str | None = None) -> dict[str, Any]:
        """One job in the API's shape, with steps and attempts. `account` None stands for an admin.

        Raises:
            NotFound: no such job, or not this account's.
        """
        return self._database.read(lambda connection: self.view(connection, job_id, account))

    def status(self, job_id: str, account: str | None = None) -> str:
        """Only the job's status; for waiting.

        Raises:
            NotFound: as `get`.
        """
        row = self._database.read(lambda connection: store.fetch(connection, job_id, account))
        return str(row["status"])

    def list(
        self, chosen: JobFilter, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Summaries, newest first, and the next cursor.

        Raises:
            InvalidInput: the cursor is not one of ours.
        """

        def read(connection: Connection) -> tuple[list[dict[str, Any]], str | None]:
            rows, following = job_lists.page(connection, chosen, limit=limit, cursor=cursor)
            steps = store.step_progress(connection, [row["id"] for row in rows])
            return [job_summary(row, steps.get(row["id"], ())) for row in rows], following

        return self._database.read(read)

    def view(self, connection: Connection, job_id: str, account: str | None) -> dict[str, Any]:
        """As `get`, within a transaction."""
        job = store.fetch(connection, job_id, account)
        return job_view(job, store.fetch_steps(connection, job_id), store.fetch_attempts(connection, job_id))

    # --- steering ------------------------------------------------------------------------------------------------
    # Each answer is read in the transaction that it describes: once that is committed, no error can hide it.

    def cancel(self, job_id: str, account: str | None = None) -> tuple[dict[str, Any], bool]:
        """Cancel a job. Gives back the job, and whether it ended at once; else its running step is being killed.

        Raises:
            NotFound: as `get`.
            JobFinished: it has ended already.
        """

        def work(connection: Connection) -> tuple[bool, Sequence[Dispatch], dict[str, Any]]:
            ended, withdrawn = self.cancel_within(connection, job_id, account)
            return ended, withdrawn, self.view(connection, job_id, None)

        ended, withdrawn, job = self._database.write(work)
        self._dispatcher.withdraw(withdrawn)
        return job, ended

    def cancel_within(
        self, connection: Connection, job_id: str, account: str | None
    ) -> tuple[bool, Sequence[Dispatch]]:
        """As `cancel`, within a transaction; gives back what to withdraw from Redis once that is committed."""
        job = store.lock(connection, job_id, account)
        if job["finished_at"] is not None:
            raise JobFinished(f"job {job_id} has ended already: it is {job['status']}")
        endings.request_cancel(connection, job_id)
        if store.has_running_step(connection, job_id):
            return False, []
        waiting = self._waiting(connection, job_id)
        endings.end(connection, job, "cancelled")
        return True, waiting

    def retry(self, job_id: str, account: str | None = None, *, delay_seconds: float = 0.0) -> dict[str, Any]:
        """Let an ended job go on from the step that did not finish; finished steps do not run again.

        Raises:
            NotFound: as `get`.
            JobNotRetryable: it has not ended, or it completed.
        """

        def work(connection: Connection) -> tuple[Sequence[Dispatch], dict[str, Any]]:
            return self._retry_within(connection, job_id, account, delay_seconds), self.view(connection, job_id, None)

        return self._reopened(job_id, work)

    def replay(self, letter_id: str, *, delay_seconds: float = 0.0) -> dict[str, Any]:
        """As `retry`, for the job of a dead letter; the letter is open until this transaction, and for one caller.

        Raises:
            NotFound: there is no such letter, or its job is gone.
            JobNotRetryable: the letter is open no more or belongs to no job, or as `retry`.
        """
        letter = self._database.read(lambda connection: dead_letters.fetch(connection, letter_id))
        job_id: str | None = letter["job_id"]
        if job_id is None:
            raise JobNotRetryable(f"dead letter {letter_id} belongs to no job; send its message again or discard it")

        def work(connection: Connection) -> tuple[Sequence[Dispatch], dict[str, Any]]:
            store.lock(connection, job_id, None)
            resolution = dead_letters.fetch(connection, letter_id)["resolution"]
            if resolution is not None:
                raise JobNotRetryable(f"dead letter {letter_id} was {resolution} already")
            return self._retry_within(connection, job_id, None, delay_seconds), self.view(connection, job_id, None)

        return self._reopened(job_id, work)

    def _retry_within(
        self, connection: Connection, job_id: str, account: str | None, delay_seconds: float
    ) -> Sequence[Dispatch]:
        job = store.lock(connection, job_id, account)
        if job["status"] not in ("failed", "timed_out", "cancelled", "expired"):
            raise JobNotRetryable(f"job {job_id} is {job['status']}; only a job that ended without success goes on")
        return _go_on(connection, job, delay_seconds)

    def _reopened(self, job_id: str, work: Callable[[Connection], tuple[Sequence[Dispatch], T]]) -> T:
        """Run a transaction that resumes the job, and send what it gives back."""
        try:
            steps, answer = self._database.write(work)
        except IntegrityError as error:
            raise JobNotRetryable(
                f"job {job_id} cannot go on: another unfinished job has its unique_key now"
            ) from error
        self._dispatcher.send(steps)
        return answer

    def approve(self, job_id: str, account: str | None = None, *, version: int | None = None) -> dict[str, Any]:
        """Let a job that awaits approval run its last step, with its draft at `version` (None: as it is now).

        Raises:
            NotFound: as `get`.
            NotAwaitingApproval: it does not wait for that.
            StaleVersion: its draft is not at this version.
        """

        def work(connection: Connection) -> tuple[Dispatch, dict[str, Any]]:
            step = approvals.approve(connection, self._awaiting(connection, job_id, account), version=version)
            return step, self.view(connection, job_id, None)

        step, answer = self._database.write(work)
        self._dispatcher.send([step])
        return answer

    def reject(self, job_id: str, account: str | None = None, *, reason: str | None = None) -> dict[str, Any]:
        """Refuse a job that awaits approval: it is cancelled, and its draft discarded.

        Raises:
            NotFound, NotAwaitingApproval: as `approve`.
        """

        def work(connection: Connection) -> dict[str, Any]:
            approvals.reject(connection, self._awaiting(connection, job_id, account), reason)
            return self.view(connection, job_id, None)

        return self._database.write(work)

    def settle_publication(
        self, publication_id: str, *, url: str | None = None, external_id: str | None = None
    ) -> dict[str, Any]:
        """Settle an unknown outcome by hand, and resume the job: with a `url` it completes, else it publishes again.

        Raises:
            NotFound, PublicationNotUnknown: see `tenants.store.publishing.publications.settle_by_hand`.
            JobNotRetryable: the job has not ended, or cannot go on.
        """
        found = self._database.read(lambda connection: publications.by_id(connection, publication_id))
        job_id: str = found["job_id"]

        def work(connection: Connection) -> tuple[Sequence[Dispatch], dict[str, Any]]:
            job = store.lock(connection, job_id, None)
            entry = publications.settle_by_hand(connection, publication_id, url=url, external_id=external_id)
            if job["status"] not in ("failed", "timed_out", "cancelled"):
                raise JobNotRetryable(f"job {job['id']} is {job['status']}; it has not ended without success")
            return _go_on(connection, job), dict(entry)

        return self._reopened(job_id, work)

    def _awaiting(self, connection: Connection, job_id: str, account: str | None) -> RowMapping:
        job = store.lock(connection, job_id, account)
        if job["status"] != "awaiting_approval":
            raise NotAwaitingApproval(f"job {job_id} is {job['status']}; it does not await approval")
        return job

    def _waiting(self, connection: Connection, job_id: str) -> Sequence[Dispatch]:
        return [
            Dispatch.of(step)
            for step in store.fetch_steps(connection, job_id)
            if step["status"] in ("queued", "retrying")
        ]


def _go_on(connection: Connection, job: RowMapping, delay_seconds: float = 0.0) -> Sequence[Dispatch]:
    """Reopen an ended job, and resolve its dead letters; gives back what to send: nothing where it awaits approval."""
    steps = store.fetch_steps(connection, job["id"])
    first = _first_unfinished(steps)
    step = approvals.resume(connection, job, first, is_last=first is steps[-1], delay_seconds=delay_seconds)
    dead_letters.resolve_job(connection, job["id"], "replayed")
    return [] if step is None else [step]


def _first_unfinished(steps: Sequence[RowMapping]) -> RowMapping:
    """The step at which a job goes on: the first that neither completed nor failed as best effort."""
    for step in steps:
        if step["status"] == "completed" or (not step["required"] and step["status"] in ("failed", "timed_out")):
            continue
        return step
    raise Conflict("every step of this job has finished")


def is_finished(status: str) -> bool:
    return status in store.FINISHED


def _refuse_unstorable(value: Any, loc: tuple[str | int, ...], refusal: type[InvalidInput]) -> None:
    """Raises `refusal` for what no database takes; the API refuses it in any body."""
    message = storable.fault_of(value)
    if message is not None:
        raise refusal(f"{'.'.join(map(str, loc)) or 'job'}: {message}", (Fault(loc, message),))
