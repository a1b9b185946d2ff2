"""Accounts: their state, settings, and what stands on their tenant queues by SQL's count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, Connection, RowMapping, and_, case, func, or_, select, update

from ..account import AccountLimits
from ..columns import db_now, seconds_since, upsert
from ..errors import NotFound
from ..models import Account, Attempt, Lane, Step, TenantQueue
from . import circuits, erasures
from .listings import Page, after_prefix, by_name

accounts, steps, attempts = Account.__table__, Step.__table__, Attempt.__table__
lanes, tenant_queues = Lane.__table__, TenantQueue.__table__


def ensure_account(connection: Connection, account: str) -> None:
    """The account comes into being with its first job, schedule, key, session, target, asset or limits.

    Raises:
        AccountBusy: it is being erased.
    """
    erasures.refuse(connection, account)
    statement = upsert(connection, accounts).values(
        id=account, status="active", created_at=db_now(), updated_at=db_now()
    )
    connection.execute(statement.on_conflict_do_nothing())


def fetch(connection: Connection, account: str) -> RowMapping:
    """One account.

    Raises:
        NotFound: it has not come into being.
    """
    found = connection.execute(select(accounts).where(accounts.c.id == account)).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no account {account!r}; one comes into being with its first job, key or setting")
    return found


def page(connection: Connection, *, q: str | None, status: str | None, limit: int, cursor: str | None) -> Page:
    """Accounts by name; `q` is a prefix of it."""
    statement = select(accounts.c.id, accounts.c.status, accounts.c.created_at, accounts.c.updated_at)
    if status is not None:
        statement = statement.where(accounts.c.status == status)
    if q is not None:
        statement = statement.where(accounts.c.id >= q)
        end = after_prefix(q)
        if end is not None:
            statement = statement.where(accounts.c.id < end)
    return by_name(connection, statement, accounts.c.id, limit=limit, cursor=cursor)


# --- settings ------------------------------------------------------------------------------------------------------


def put_limits(connection: Connection, account: str, limits: AccountLimits) -> AccountLimits:
    """Replace all limits; gives back those that held before. The account comes into being with them.

    Waits for the starts that are under way by the limits before: each is running, and counted, once the new ones hold.
    """
    ensure_account(connection, account)
    statement = select(accounts.c.limits).where(accounts.c.id == account).with_for_update()
    before = connection.execute(statement).scalar_one()
    kept = None if limits == AccountLimits() else limits.as_json()
    connection.execute(update(accounts).where(accounts.c.id == account).values(limits=kept, updated_at=db_now()))
    return AccountLimits.from_json(before)


def set_status(connection: Connection, account: str, status: str) -> str:
    """Set `active`, `paused`, `draining` or `suspended`; gives back the status before.

    Raises:
        NotFound: the account has not come into being.
        AccountBusy: it is being erased.
    """
    # The row is locked first: asked before, an erasure that begins meanwhile would be overwritten, and not be seen.
    # It waits for the starts that are under way: once the account is paused, nothing of it starts.
    connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update())
    erasures.refuse(connection, account)
    before: str = fetch(connection, account)["status"]
    connection.execute(update(accounts).where(accounts.c.id == account).values(status=status, updated_at=db_now()))
    return before


def put_target(connection: Connection, account: str, target: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where the account publishes, which comes into being with it; gives back the target before."""
    ensure_account(connection, account)
    before: dict[str, Any] | None = connection.execute(
        select(accounts.c.target).where(accounts.c.id == account)
    ).scalar_one()
    connection.execute(
        update(accounts).where(accounts.c.id == account).values(target=dict(target), updated_at=db_now())
    )
    return before


def target(connection: Connection, account: str) -> dict[str, Any]:
    """The account's target.

    Raises:
        NotFound: it has none.
    """
    found: dict[str, Any] | None = connection.execute(
        select(accounts.c.target).where(accounts.c.id == account)
    ).scalar_one_or_none()
    if found is None:
        raise NotFound(f"account {account!r} has no target")
    return found


def delete_target(connection: Connection, account: str) -> dict[str, Any]:
    """Forget where the account publishes; gives back where that was.

    Raises:
        NotFound: it has no target.
    """
    before = target(connection, account)
    connection.execute(update(accounts).where(accounts.c.id == account).values(target=None, updated_at=db_now()))
    return before


# --- what goes on --------------------------------------------------------------------------------------------------


def queues(connection: Connection, account: str) -> dict[str, dict[str, Any]]:
    """By lane: `waiting`, `active`, `delayed`, `oldest_wait` (seconds), `last_used_at`, `paused`, `circuit`."""
    found: dict[str, dict[str, Any]] = {}
    for row in _counts(connection, account):
        found[row["lane"]] = {
            "waiting": row["waiting"],
            "active": row["active"],
            "delayed": row["delayed"],
            "oldest_wait": row["oldest_wait"],
            "last_used_at": None,
            "paused": False,
            "circuit": None,
        }
    for lane, last_used_at in _last_starts(connection, account):
        found.setdefault(lane, empty_queue())["last_used_at"] = last_used_at
    for lane in _paused_lanes(connection, account):
        found.setdefault(lane, empty_queue())["paused"] = True
    for row in circuits.of_accounts(connection, [account]):
        found.setdefault(row["lane"], empty_queue()).update(paused=True, circuit=circuits.view(row))
    return found


def empty_queue() -> dict[str, Any]:
    return {
        "waiting": 0,
        "active": 0,
        "delayed": 0,
        "oldest_wait": None,
        "last_used_at": None,
        "paused": False,
        "circuit": None,
    }


def _counts(connection: Connection, account: str) -> Sequence[RowMapping]:
    on_queue = steps.c.status.in_(("queued", "retrying"))
    later = and_(on_queue, steps.c.due_at > db_now())
    now = and_(on_queue, or_(steps.c.due_at.is_(None), steps.c.due_at <= db_now()))
    since = seconds_since(func.coalesce(steps.c.due_at, steps.c.queued_at))
    statement = (
        select(
            steps.c.lane,
            func.sum(case((now, 1), else_=0)).label("waiting"),
            func.sum(case((later, 1), else_=0)).label("delayed"),
            func.sum(case((steps.c.status == "running", 1), else_=0)).label("active"),
            func.max(case((now, since), else_=None)).label("oldest_wait"),
        )
        .where(steps.c.account == account, steps.c.status.in_(("queued", "retrying", "running")))
        .group_by(steps.c.lane)
    )
    return connection.execute(statement).mappings().all()


def _last_starts(connection: Connection, account: str) -> list[tuple[str, datetime]]:
    """The last use of each lane; one index look-up a lane."""
    used = lanes_with_attempts()
    last = (
        select(func.max(attempts.c.started_at))
        .where(attempts.c.lane == used.c.lane, attempts.c.account == account)
        .scalar_subquery()
    )
    rows = connection.execute(select(used.c.lane, last.label("last")).where(used.c.lane.is_not(None)))
    return [(row.lane, row.last) for row in rows if row.last is not None]


def lanes_with_attempts() -> CTE:
    """Every lane that has attempts, and a null: each is found behind the one before, at one look into the index."""
    first = select(func.min(attempts.c.lane).label("lane"))
    found = first.cte("lanes_with_attempts", recursive=True)
    following = select(func.min(attempts.c.lane)).where(attempts.c.lane > found.c.lane).scalar_subquery()
    return found.union_all(select(following).where(found.c.lane.is_not(None)))


def _paused_lanes(connection: Connection, account: str) -> list[str]:
    own = select(tenant_queues.c.lane).where(tenant_queues.c.account == account, tenant_queues.c.paused.is_(True))
    everybody = select(lanes.c.lane).where(lanes.c.paused.is_(True))
    return list(connection.execute(own.union(everybody)).scalars())
