"""Tenant queues in SQL: counts of steps, and pauses."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, case, func, or_, select

from ...database.columns import db_now, upsert
from ...database.models import Job, Step, TenantQueue
from .accounts import ensure_account

steps, jobs, tenant_queues = Step.__table__, Job.__table__, TenantQueue.__table__

_WAITING = ("queued", "retrying")


class StepCounts(NamedTuple):
    """Steps on one tenant queue."""

    waiting: int
    running: int


def count_steps(connection: Connection, lane: str, account: str) -> StepCounts:
    """How many steps wait (also those that are not due yet), and how many run."""
    statement = select(
        func.coalesce(func.sum(case((steps.c.status.in_(_WAITING), 1), else_=0)), 0),
        func.coalesce(func.sum(case((steps.c.status == "running", 1), else_=0)), 0),
    ).where(steps.c.lane == lane, steps.c.account == account, steps.c.status.in_((*_WAITING, "running")))
    waiting, running = connection.execute(statement).one()
    return StepCounts(waiting, running)


def pause_of(connection: Connection, lane: str, account: str) -> dict[str, Any]:
    """`{paused, reason}` of the tenant queue."""
    statement = select(tenant_queues.c.paused, tenant_queues.c.reason).where(
        tenant_queues.c.lane == lane, tenant_queues.c.account == account
    )
    found = connection.execute(statement).mappings().one_or_none()
    return {"paused": False, "reason": None} if found is None else dict(found)


def set_paused(connection: Connection, lane: str, account: str, paused: bool, *, reason: str | None = None) -> None:
    """Pause or resume the tenant queue.

    Raises:
        AccountBusy: the account is being erased.
    """
    ensure_account(connection, account)
    values = {"paused": paused, "paused_until": None, "reason": reason}
    statement = upsert(connection, tenant_queues).values(lane=lane, account=account, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["lane", "account"], set_=values))


def pause_for_login(connection: Connection, lane: str, account: str) -> None:
    """Pause the tenant queue until the account has a new session, unless it is paused already."""
    values = {"paused": True, "paused_until": None, "reason": "login_required"}
    statement = upsert(connection, tenant_queues).values(lane=lane, account=account, **values)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["lane", "account"],
            set_=values,
            where=or_(tenant_queues.c.paused.is_(False), tenant_queues.c.paused_until <= db_now()),
        )
    )
