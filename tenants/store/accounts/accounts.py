"""Accounts: their state, settings, and counts of their tenant queues from SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, Connection, RowMapping, and_, case, func, or_, select, update

from ...account import AccountLimits
from ...database.columns import db_now, seconds_since, upsert
from ...database.models import Account, Attempt, Erasure, Lane, Step, TenantQueue
from ...errors import AccountBusy, NotFound
from ..listings import Page, begins_with, fetch_one, narrow, read_page
from . import circuits

accounts, steps, attempts = Account.__table__, Step.__table__, Attempt.__table__
lanes, tenant_queues, erasures = Lane.__table__, TenantQueue.__table__, Erasure.__table__


def ensure_account(connection: Connection, account: str) -> None:
    """Create the account if it does not exist: its first job, schedule, key, session, target, asset or limits do.

    Raises:
        AccountBusy: it is being erased.
    """
    refuse_during_erasure(connection, account)
    statement = upsert(connection, accounts).values(
        id=account, status="active", created_at=db_now(), updated_at=db_now()
    )
    connection.execute(statement.on_conflict_do_nothing())


def refuse_during_erasure(connection: Connection, account: str) -> None:
    """Called before every insert or change for an account.

    Raises:
        AccountBusy: the account is being erased.
    """
    erasure_id = unfinished_erasure(connection, account)
    if erasure_id is not None:
        raise AccountBusy(
            f"account {account!r} is being erased (erasure {erasure_id}); it can be used again afterwards"
        )


def unfinished_erasure(connection: Connection, account: str) -> str | None:
    """The id of the account's erasure that has not finished; None if there is none."""
    statement = select(erasures.c.id).where(erasures.c.account == account, erasures.c.finished_at.is_(None))
    return connection.execute(statement).scalar_one_or_none()


def fetch(connection: Connection, account: str) -> RowMapping:
    """One account.

    Raises:
        NotFound: it does not exist.
    """
    missing = f"there is no account {account!r}; its first job, key or setting creates it"
    return fetch_one(connection, select(accounts).where(accounts.c.id == account), missing)


def page(connection: Connection, *, q: str | None, status: str | None, limit: int, cursor: str | None) -> Page:
    """Accounts by name; `q` is a prefix of it."""
    columns = (accounts.c.id, accounts.c.status, accounts.c.created_at, accounts.c.updated_at)
    statement = narrow(select(*columns), (accounts.c.status, status))
    if q is not None:
        statement = statement.where(begins_with(accounts.c.id, q))
    return read_page(connection, statement, accounts.c.id, limit=limit, cursor=cursor, descending=False)


# --- settings ------------------------------------------------------------------------------------------------------


def put_limits(connection: Connection, account: str, limits: AccountLimits) -> AccountLimits:
    """Replace all limits, and return the former ones. Creates the account if it does not exist.

    The row lock waits for starts in progress, so every step that started under the former limits is counted.
    """
    ensure_account(connection, account)
    statement = select(accounts.c.limits).where(accounts.c.id == account).with_for_update()
    before = connection.execute(statement).scalar_one()
    kept = None if limits == AccountLimits() else limits.as_json()
    _set(connection, account, limits=kept)
    return AccountLimits.from_json(before)


def set_status(connection: Connection, account: str, status: str) -> str:
    """Set `active`, `paused`, `draining` or `suspended`, and return the former status.

    Raises:
        NotFound: the account does not exist.
        AccountBusy: it is being erased.
    """
    # Locked first, so that an erasure that begins meanwhile is seen and not overwritten. The lock also waits for starts
    # in progress: after the commit of a pause nothing of the account starts.
    connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update())
    refuse_during_erasure(connection, account)
    before: str = fetch(connection, account)["status"]
    _set(connection, account, status=status)
    return before


def put_target(connection: Connection, account: str, target: Mapping[str, Any]) -> dict[str, Any] | None:
    """Set where the account publishes, and return the former target. Creates the account if it does not exist."""
    ensure_account(connection, account)
    before = _find_target(connection, account)
    _set(connection, account, target=dict(target))
    return before


def target(connection: Connection, account: str) -> dict[str, Any]:
    """The account's target.

    Raises:
        NotFound: it has none.
    """
    found = _find_target(connection, account)
    if found is None:
        raise NotFound(f"account {account!r} has no target")
    return found


def _find_target(connection: Connection, account: str) -> dict[str, Any] | None:
    return connection.execute(select(accounts.c.target).where(accounts.c.id == account)).scalar_one_or_none()


def delete_target(connection: Connection, account: str) -> dict[str, Any]:
    """Remove the account's target, and return it.

    Raises:
        NotFound: it has no target.
    """
    before = target(connection, account)
    _set(connection, account, target=None)
    return before


def _set(connection: Connection, account: str, **values: Any) -> None:
    connection.execute(update(accounts).where(accounts.c.id == account).values(updated_at=db_now(), **values))


# --- tenant queues -------------------------------------------------------------------------------------------------


def queues(connection: Connection, account: str) -> dict[str, dict[str, Any]]:
    """By lane: `waiting`, `active`, `delayed`, `oldest_wait` (seconds), `last_used_at`, `paused`, `circuit`."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(empty_queue)
    for row in _counts(connection, account):
        found[row["lane"]] |= {name: row[name] for name in ("waiting", "active", "delayed", "oldest_wait")}
    for lane, last_used_at in _last_starts(connection, account):
        found[lane]["last_used_at"] = last_used_at
    for lane in _paused_lanes(connection, account):
        found[lane]["paused"] = True
    for row in circuits.of_accounts(connection, [account]):
        found[row["lane"]] |= {"paused": True, "circuit": circuits.view(row)}
    return dict(found)


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
    """The last start on each lane; one index look-up a lane."""
    used = lanes_with_attempts()
    last = (
        select(func.max(attempts.c.started_at))
        .where(attempts.c.lane == used.c.lane, attempts.c.account == account)
        .scalar_subquery()
    )
    rows = connection.execute(select(used.c.lane, last.label("last")).where(used.c.lane.is_not(None)))
    return [(row.lane, row.last) for row in rows if row.last is not None]


def lanes_with_attempts() -> CTE:
    """Every lane that has attempts, and a null, by one index look-up a lane."""
    first = select(func.min(attempts.c.lane).label("lane"))
    found = first.cte("lanes_with_attempts", recursive=True)
    following = select(func.min(attempts.c.lane)).where(attempts.c.lane > found.c.lane).scalar_subquery()
    return found.union_all(select(following).where(found.c.lane.is_not(None)))


def _paused_lanes(connection: Connection, account: str) -> list[str]:
    own = select(tenant_queues.c.lane).where(tenant_queues.c.account == account, tenant_queues.c.paused.is_(True))
    of_all = select(lanes.c.lane).where(lanes.c.paused.is_(True))
    return list(connection.execute(own.union(of_all)).scalars())
