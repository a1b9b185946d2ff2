"""The state in SQL that explains why a job does not run now: read once, and possibly outdated when it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, or_, select

from ...account import AccountLimits
from ...database.columns import db_now
from ...database.models import Account, Attempt, Lane, Step, TenantQueue
from .. import workers
from ..accounts import circuits
from ..states import RUNNING
from . import read as job_store

accounts, steps, attempts = Account.__table__, Step.__table__, Attempt.__table__
lanes, tenant_queues = Lane.__table__, TenantQueue.__table__


@dataclass(frozen=True, slots=True)
class Situation:
    """A job's waiting step, and everything in SQL that may delay it."""

    job: Mapping[Any, Any]
    #: None while a step runs, and when the job has ended.
    step: Mapping[Any, Any] | None
    #: The step's `due_at`, if it lies ahead.
    due_at: datetime | None
    #: The outcome of the step's last attempt; None before the first.
    last_outcome: str | None
    account_status: str
    #: The tenant queue's pause: until when (None: until it is resumed) and why; None when it is not paused.
    queue_pause: tuple[datetime | None, str | None] | None
    #: The tenant queue's open circuit: its status (`open`, `half_open`) and until when; None while it is closed.
    circuit: tuple[str, datetime] | None
    lane_paused: bool
    #: Running steps of the tenant queue and of the account, with their limits.
    running: int
    concurrency: int
    running_in_account: int
    account_concurrency: int | None
    #: Threads of live workers that serve the lane, and how many of them are busy.
    threads: int
    busy: int


def situation(connection: Connection, job_id: str, account: str | None) -> Situation:
    """Read the job's situation.

    Raises:
        NotFound: no such job, or not this account's.
    """
    job = job_store.fetch(connection, job_id, account)
    found = job_store.fetch_steps(connection, job_id)
    step = next((each for each in found if each["status"] in ("queued", "retrying", "awaiting_approval")), None)
    lane, owner = step["lane"] if step is not None else "", job["account"]
    row = connection.execute(select(accounts.c.status, accounts.c.limits).where(accounts.c.id == owner)).one()
    limits = AccountLimits.from_json(row.limits)
    serving = [each for each in workers.live(connection) if lane in each["lanes"]]
    return Situation(
        job=job,
        step=step,
        due_at=_due(connection, step),
        last_outcome=_last_outcome(connection, step),
        account_status=row.status,
        queue_pause=_queue_pause(connection, lane, owner),
        circuit=_circuit(connection, lane, owner),
        lane_paused=connection.execute(select(lanes.c.paused).where(lanes.c.lane == lane)).scalar() or False,
        running=_running(connection, owner, lane),
        concurrency=limits.lane(lane).concurrency,
        running_in_account=_running(connection, owner),
        account_concurrency=limits.account_concurrency,
        threads=sum(each["threads"] for each in serving),
        busy=sum(each["busy"] for each in serving),
    )


def _due(connection: Connection, step: RowMapping | None) -> datetime | None:
    if step is None or step["due_at"] is None:
        return None
    statement = select(steps.c.due_at).where(steps.c.id == step["id"], steps.c.due_at > db_now())
    return connection.execute(statement).scalar()


def _last_outcome(connection: Connection, step: RowMapping | None) -> str | None:
    if step is None:
        return None
    statement = select(attempts.c.outcome).where(attempts.c.step_id == step["id"])
    return connection.execute(statement.order_by(attempts.c.run_token.desc()).limit(1)).scalar()


def _queue_pause(connection: Connection, lane: str, account: str) -> tuple[datetime | None, str | None] | None:
    statement = select(tenant_queues.c.paused_until, tenant_queues.c.reason).where(
        tenant_queues.c.lane == lane,
        tenant_queues.c.account == account,
        tenant_queues.c.paused,
        or_(tenant_queues.c.paused_until.is_(None), tenant_queues.c.paused_until > db_now()),
    )
    found: Sequence[Any] | None = connection.execute(statement).one_or_none()
    return (found[0], found[1]) if found is not None else None


def _circuit(connection: Connection, lane: str, account: str) -> tuple[str, datetime] | None:
    found = circuits.of_lane(connection, lane, account)
    return None if found is None else (found["status"], found["until"])


def _running(connection: Connection, account: str, lane: str | None = None) -> int:
    statement = select(func.count()).where(steps.c.account == account, RUNNING)
    if lane is not None:
        statement = statement.where(steps.c.lane == lane)
    return int(connection.execute(statement).scalar_one())
