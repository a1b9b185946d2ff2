"""The configured settings of accounts and tenant queues that Redis must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, or_, select, update

from ...account import AccountLimits
from ...database.columns import db_now
from ...database.models import Account, Circuit, TenantQueue

accounts, tenant_queues = Account.__table__, TenantQueue.__table__
circuits = Circuit.__table__


@dataclass(frozen=True, slots=True)
class QueuePause:
    """A pause of one tenant queue; `until` None: until it is resumed. An open circuit is a pause too."""

    lane: str
    until: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """All settings of one account that Redis must have."""

    account: str
    #: It is paused or suspended: none of its steps may start.
    is_paused: bool
    limits: AccountLimits
    pauses: tuple[QueuePause, ...]


def of_accounts(connection: Connection, names: Sequence[str]) -> list[AccountSettings]:
    """The settings of each of these accounts, in this order; the defaults for one that does not exist.

    Two results are equal if nothing was changed between the reads.
    """
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
    return [
        AccountSettings(
            account=name,
            is_paused=name in rows and rows[name].status in ("paused", "suspended"),
            limits=AccountLimits.from_json(rows[name].limits if name in rows else None),
            pauses=tuple(pauses.get(name, ())),
        )
        for name in names
    ]


def accounts_with_settings(connection: Connection, *, after: str, limit: int) -> Sequence[str]:
    """The next accounts with settings other than the defaults, in the order of their names."""
    configured = select(accounts.c.id).where(or_(accounts.c.limits.is_not(None), accounts.c.status != "active"))
    paused = select(tenant_queues.c.account).where(tenant_queues.c.paused)
    broken = select(circuits.c.account).where(circuits.c.opened_at.is_not(None))
    names = configured.union(paused, broken).subquery()
    column = names.c[0]
    return connection.execute(select(column).where(column > after).order_by(column).limit(limit)).scalars().all()


def end_login_pauses(connection: Connection, account: str) -> None:
    """End the pauses that a missing session has caused."""
    connection.execute(
        update(tenant_queues)
        .where(tenant_queues.c.account == account, tenant_queues.c.reason == "login_required")
        .values(paused=False, paused_until=None, reason=None)
    )
