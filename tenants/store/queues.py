"""Tenant queues as SQL sees them: what waits, what runs, and the settings that somebody made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, or_, select, update

from ..columns import db_now, upsert
from ..models import Job, Step, TenantQueue
from . import unknown_outcomes, webhook_deliveries
from .accounts import ensure_account
from .bulk import among
from .events import NewEvent, record
from .states import WAITING

steps, jobs, tenant_queues = Step.__table__, Job.__table__, TenantQueue.__table__

_WAITING = ("queued", "retrying")


class Standing(NamedTuple):
    """Steps on one tenant queue."""

    waiting: int
    running: int


def standing(connection: Connection, lane: str, account: str) -> Standing:
    """How many steps wait (now or until later) and run."""
    statement = select(
        func.coalesce(func.sum(case((steps.c.status.in_(_WAITING), 1), else_=0)), 0),
        func.coalesce(func.sum(case((steps.c.status == "running", 1), else_=0)), 0),
    ).where(steps.c.lane == lane, steps.c.account == account, steps.c.status.in_((*_WAITING, "running")))
    waiting, running = connection.execute(statement).one()
    return Standing(waiting, running)


def cancel_waiting(connection: Connection, lane: str, account: str, *, limit: int) -> Sequence[str]:
    """Cancel up to `limit` jobs whose step waits on the queue; the ids of those that this ended, none when none waits.

    The jobs are locked first, as by a start: a step that is about to start is waited for, and then left alone.
    """
    waiting = (
        select(steps.c.job_id)
        .where(steps.c.lane == lane, steps.c.account == account, WAITING)
        .order_by(steps.c.priority, steps.c.sequence)
        .limit(limit)
    )
    found = connection.execute(waiting).scalars().all()
    locked = select(jobs.c.id).where(among(connection, jobs.c.id, found), jobs.c.finished_at.is_(None))
    held = connection.execute(locked.order_by(jobs.c.seq).with_for_update()).scalars().all()
    if not held:
        return []
    ended = (
        connection.execute(
            update(steps)
            .where(among(connection, steps.c.job_id, held), steps.c.lane == lane, steps.c.status.in_(_WAITING))
            .values(status="cancelled", finished_at=db_now(), due_at=None)
            .returning(steps.c.job_id)
        )
        .scalars()
        .all()
    )
    if not ended:
        return []
    connection.execute(
        update(steps)
        .where(steps.c.job_id.in_(ended), steps.c.status.in_(("pending", "awaiting_approval")))
        .values(status="cancelled", finished_at=db_now())
    )
    cancelled = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(ended), jobs.c.finished_at.is_(None))
        .values(status="cancelled", finished_at=db_now(), cancel_requested_at=db_now(), current_step=None)
        .returning(jobs.c.id, jobs.c.account, jobs.c.status, jobs.c.callback_url)
    )
    unknown_outcomes.mark_unknown(connection, ended, "the job was cancelled before anybody looked")
    webhook_deliveries.enqueue(connection, cancelled.mappings().all())
    record(connection, *(NewEvent(account, job_id, "status", {"status": "cancelled"}) for job_id in ended))
    return ended


def pause_of(connection: Connection, lane: str, account: str) -> dict[str, Any]:
    """`{paused, reason}` of the tenant queue."""
    statement = select(tenant_queues.c.paused, tenant_queues.c.reason).where(
        tenant_queues.c.lane == lane, tenant_queues.c.account == account
    )
    found = connection.execute(statement).mappings().one_or_none()
    return {"paused": False, "reason": None} if found is None else dict(found)


def set_paused(connection: Connection, lane: str, account: str, paused: bool, *, reason: str | None = None) -> None:
    """Write a pause of the tenant queue down, or its end.

    Raises:
        AccountBusy: the account is being erased.
    """
    ensure_account(connection, account)
    values = {"paused": paused, "paused_until": None, "reason": reason}
    statement = upsert(connection, tenant_queues).values(lane=lane, account=account, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["lane", "account"], set_=values))


def pause_for_login(connection: Connection, lane: str, account: str) -> None:
    """Pause the tenant queue until the account has a new session; a pause that somebody made stays, and outlives it."""
    values = {"paused": True, "paused_until": None, "reason": "login_required"}
    statement = upsert(connection, tenant_queues).values(lane=lane, account=account, **values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["lane", "account"],
            set_=values,
            where=or_(tenant_queues.c.paused.is_(False), tenant_queues.c.paused_until <= db_now()),
        )
    )
