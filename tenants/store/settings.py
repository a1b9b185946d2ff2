"""Settings that somebody made for accounts, tenant queues and lanes, as Redis has to know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, or_, select, update

from ..account import AccountLimits
from ..columns import db_now
from ..models import Account, Circuit, Lane, TenantQueue

accounts, lanes, tenant_queues = Account.__table__, Lane.__table__, TenantQueue.__table__
circuits = Circuit.__table__


@dataclass(frozen=True, slots=True)
class QueuePause:
    """A pause of one tenant queue; `until` None: for good. An open circuit is one of the kind, beside any other."""

    lane: str
    until: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """All that Redis has to know of one account."""

    account: str
    #: Nothing of it may start: it is paused or suspended.
    held: bool
    limits: AccountLimits
    pauses: tuple[QueuePause, ...]


def of_account(connection: Connection, account: str) -> AccountSettings:
    """One account's settings; the defaults when it does not exist."""
    return of_accounts(connection, [account])[0]


def of_accounts(connection: Connection, names: Sequence[str]) -> list[AccountSettings]:
    """The settings of each of these accounts, in this order; equal wherever nothing was changed in between."""
    statement = select(accounts.c.id, accounts.c.status, accounts.c.limits).where(accounts.c.id.in_(names))
    rows = {row.id: row for row in connection.execute(statement)}
    pauses: dict[str, list[QueuePause]] = {}
    paused = (
        select(tenant_queues)
        .where(
            tenant_queues.c.account.in_(names),
            tenant_queues.c.paused,
            or_(tenant_queues.c.paused_until.is_(None), tenant_queues.c.paused_until > db_now()),
        )
        .order_by(tenant_queues.c.lane)
    )
    for row in connection.execute(paused):
        pauses.setdefault(row.account, []).append(QueuePause(row.lane, row.paused_until, row.reason))
    broken = (
        select(circuits).where(circuits.c.account.in_(names), circuits.c.until > db_now()).order_by(circuits.c.lane)
    )
    for row in connection.execute(broken):
        pauses.setdefault(row.account, []).append(QueuePause(row.lane, row.until, "circuit_open"))
    return [_settings(name, rows.get(name), pauses.get(name, ())) for name in names]


def _settings(account: str, row: Any | None, pauses: Sequence[QueuePause]) -> AccountSettings:
    return AccountSettings(
        account=account,
        held=row is not None and row.status in ("paused", "suspended"),
        limits=AccountLimits.from_json(row.limits if row is not None else None),
        pauses=tuple(pauses),
    )


def accounts_with_settings(connection: Connection, *, after: str, limit: int) -> Sequence[str]:
    """Names of accounts that have settings other than the defaults, in order, for a rebuild that goes through once."""
    configured = select(accounts.c.id).where(or_(accounts.c.limits.is_not(None), accounts.c.status != "active"))
    paused = select(tenant_queues.c.account).where(tenant_queues.c.paused)
    broken = select(circuits.c.account).where(circuits.c.opened_at.is_not(None))
    names = configured.union(paused, broken).subquery()
    column = names.c[0]
    return connection.execute(select(column).where(column > after).order_by(column).limit(limit)).scalars().all()


def lanes_with_settings(connection: Connection) -> Sequence[RowMapping]:
    """`lane`, `paused`, `global_concurrency` of each lane that somebody configured."""
    return connection.execute(select(lanes.c.lane, lanes.c.paused, lanes.c.global_concurrency)).mappings().all()


def end_login_pauses(connection: Connection, account: str) -> None:
    """A new session ends the pauses that the lack of one had made."""
    connection.execute(
        update(tenant_queues)
        .where(tenant_queues.c.account == account, tenant_queues.c.reason == "login_required")
        .values(paused=False, paused_until=None, reason=None)
    )
