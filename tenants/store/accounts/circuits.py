"""Circuit breakers: a tenant queue whose steps keep failing starts nothing for a cooldown, and then one canary.

    closed ──n steps in a row failed──▶ open ──the cooldown has passed──▶ one canary starts
       ▲                                 ▲                                    │
       └───────────── it completes ──────┴── it fails: twice the cooldown ────┘

A row counts the failures in a row; a completed step removes it. The canary is an attempt: when it is lost, snoozed or
cancelled, another one may start a cooldown after its start.

Invariants
- Each change is one guarded statement, by the database's clock. Redis gets it afterwards; SQL decides at each start.
- One canary at a time: its start postpones `until` in the same statement, so a second attempt finds it in the future;
  while the canary runs, each such check postpones `until` again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, RowMapping, and_, case, delete, func, or_, select, update

from ... import webhooks
from ...database.columns import db_now, upsert
from ...database.models import Circuit, Step
from ..attempt import OwnedAttempt
from ..dead_letters import alerts
from ..listings import Page, narrow, read_page
from ..states import WAITING

circuits, steps = Circuit.__table__, Step.__table__

#: The longest cooldown by doubling; a longer one that is set stays as it is.
LONGEST_COOLDOWN_SECONDS = 3600.0
#: Failures that are not counted: a missing session pauses the tenant queue by itself.
_UNCOUNTED = frozenset({"login_required"})


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a circuit opens, and for how long at first."""

    #: Failed steps in a row, after their retries.
    failures: int
    cooldown_seconds: float

    @property
    def longest_seconds(self) -> float:
        """The longest cooldown."""
        return max(LONGEST_COOLDOWN_SECONDS, self.cooldown_seconds)


# --- changes by attempts -------------------------------------------------------------------------------------------


def failed(connection: Connection, owned: OwnedAttempt, policy: CircuitPolicy | None, code: str) -> None:
    """Count a step that failed after its retries, and open the circuit at the limit.

    Not counted are best-effort steps and webhook deliveries: one receiver's fault must not delay calls to others.
    """
    if policy is None or owned.pipeline == webhooks.PIPELINE or code in _UNCOUNTED:
        return
    if (owned.canary and reopen(connection, owned, policy)) or not owned.required:
        return
    statement = upsert(connection, circuits).values(
        account=owned.account, lane=owned.lane, failures=1, updated_at=db_now()
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["account", "lane"], set_={"failures": circuits.c.failures + 1, "updated_at": db_now()}
        )
    )
    _open(connection, owned, policy, code)


def _open(connection: Connection, owned: OwnedAttempt, policy: CircuitPolicy, code: str) -> None:
    opened = connection.execute(
        update(circuits)
        .where(_of(owned.account, owned.lane), circuits.c.opened_at.is_(None), circuits.c.failures >= policy.failures)
        .values(
            opened_at=db_now(),
            until=db_now(policy.cooldown_seconds),
            cooldown_seconds=policy.cooldown_seconds,
            canary_step_id=None,
            canary_run_token=None,
        )
        .returning(circuits.c.failures, circuits.c.until)
    ).one_or_none()
    if opened is not None:
        details = {
            "lane": owned.lane,
            "pipeline": owned.pipeline,
            "step": owned.name,
            "error_code": alerts.plain_code(code),
            "job_id": owned.job_id,
            "failures": opened.failures,
            "until": opened.until.isoformat(),
        }
        alerts.raise_alert(connection, "circuit_open", account=owned.account, subject=(owned.lane,), details=details)


def reopen(connection: Connection, owned: OwnedAttempt, policy: CircuitPolicy) -> bool:
    """Double the cooldown after the canary failed. False when the attempt is no longer the circuit's canary."""
    longest = policy.longest_seconds
    doubled = case((circuits.c.cooldown_seconds * 2 > longest, longest), else_=circuits.c.cooldown_seconds * 2)
    statement = update(circuits).where(_is_canary(owned))
    statement = statement.values(
        failures=circuits.c.failures + 1,
        until=db_now(doubled),
        cooldown_seconds=doubled,
        canary_step_id=None,
        canary_run_token=None,
        updated_at=db_now(),
    )
    return bool(connection.execute(statement).rowcount)


def let_canary_start(connection: Connection, lane: str, account: str, step_id: str, run_token: int) -> bool:
    """Make this attempt the canary if the cooldown has passed and no canary runs; its step does not run yet.

    `until` is postponed while a canary runs too: Redis pauses the queue until then, and would otherwise hand out all
    of its messages, to be refused, for as long as the canary takes.
    """
    runs = select(1).where(_runs_canary(steps)).exists()
    canary = connection.execute(
        update(circuits)
        .where(_of(account, lane), circuits.c.opened_at.is_not(None), circuits.c.until <= db_now())
        .values(
            until=db_now(circuits.c.cooldown_seconds),
            canary_step_id=case((runs, circuits.c.canary_step_id), else_=step_id),
            canary_run_token=case((runs, circuits.c.canary_run_token), else_=run_token),
        )
        .returning(circuits.c.canary_step_id, circuits.c.canary_run_token)
    ).one_or_none()
    return canary is not None and tuple(canary) == (step_id, run_token)


def completed(connection: Connection, owned: OwnedAttempt) -> None:
    """Remove the count of failures after a completed step; a canary closes the circuit."""
    if not owned.canary:
        connection.execute(delete(circuits).where(_of(owned.account, owned.lane), circuits.c.opened_at.is_(None)))
        return
    closed = connection.execute(
        delete(circuits).where(_is_canary(owned)).returning(circuits.c.opened_at, circuits.c.failures)
    ).one_or_none()
    if closed is not None:
        details = {
            "lane": owned.lane,
            "pipeline": owned.pipeline,
            "step": owned.name,
            "job_id": owned.job_id,
            "failures": closed.failures,
            "opened_at": closed.opened_at.isoformat(),
        }
        alerts.raise_alert(connection, "circuit_closed", account=owned.account, subject=(owned.lane,), details=details)


def _of(account: str, lane: str) -> ColumnElement[bool]:
    return and_(circuits.c.account == account, circuits.c.lane == lane)


def _is_canary(owned: OwnedAttempt) -> ColumnElement[bool]:
    return and_(
        _of(owned.account, owned.lane),
        circuits.c.opened_at.is_not(None),
        circuits.c.canary_step_id == owned.step_id,
        circuits.c.canary_run_token == owned.run_token,
    )


# --- changes by people ---------------------------------------------------------------------------------------------


def close(connection: Connection, account: str, lane: str | None = None) -> list[str]:
    """Remove the circuit of a tenant queue, or of all the account's; returns the lanes whose circuit was open."""
    queue = circuits.c.account == account if lane is None else _of(account, lane)
    statement = delete(circuits).where(queue)
    rows = connection.execute(statement.returning(circuits.c.lane, circuits.c.opened_at))
    return sorted(row.lane for row in rows if row.opened_at is not None)


def close_all(connection: Connection) -> list[str]:
    """Remove every circuit, because they are turned off; returns the accounts that had an open one."""
    rows = connection.execute(delete(circuits).returning(circuits.c.account, circuits.c.opened_at))
    return sorted({row.account for row in rows if row.opened_at is not None})


def forget(connection: Connection, *, older_than: float) -> None:
    """Remove circuits of tenant queues that were not used for so many seconds."""
    unused = func.coalesce(circuits.c.until, circuits.c.updated_at) < db_now(-older_than)
    connection.execute(delete(circuits).where(unused, circuits.c.updated_at < db_now(-older_than)))


# --- reading -------------------------------------------------------------------------------------------------------


def _runs_canary(table: FromClause) -> ColumnElement[bool]:
    """Whether a row of `steps` is the running canary of a circuit."""
    return and_(
        table.c.id == circuits.c.canary_step_id,
        table.c.run_token == circuits.c.canary_run_token,
        table.c.status == "running",
    )


_canary = steps.alias("canary")
_VIEW = (
    select(
        circuits.c.account,
        circuits.c.lane,
        case(
            (or_(circuits.c.until <= db_now(), _canary.c.id.is_not(None)), "half_open"),
            else_="open",
        ).label("status"),
        circuits.c.failures,
        circuits.c.opened_at,
        circuits.c.until,
        circuits.c.cooldown_seconds,
    )
    .join(_canary, _runs_canary(_canary), isouter=True)
    .where(circuits.c.opened_at.is_not(None))
)

#: An open circuit as the API shows it; `half_open` once its canary may start, and while it runs.
VIEW_FIELDS = ("status", "failures", "opened_at", "until")


def of_accounts(connection: Connection, accounts: Sequence[str]) -> Sequence[RowMapping]:
    """The open circuits of these accounts."""
    return connection.execute(_VIEW.where(circuits.c.account.in_(accounts))).mappings().all()


def of_lane(connection: Connection, lane: str, account: str) -> RowMapping | None:
    """The tenant queue's circuit; None when it is closed."""
    return connection.execute(_VIEW.where(_of(account, lane))).mappings().one_or_none()


def page(connection: Connection, *, account: str | None, lane: str | None, limit: int, cursor: str | None) -> Page:
    """Open circuits, by lane and account."""
    name = (circuits.c.lane + "\n" + circuits.c.account).label("name")
    statement = narrow(_VIEW.add_columns(name), (circuits.c.account, account), (circuits.c.lane, lane))
    return read_page(connection, statement, name, limit=limit, cursor=cursor, descending=False)


def open_by_lane(connection: Connection) -> dict[str, int]:
    """By lane: the number of open circuits of tenant queues with a waiting step."""
    waits = select(1).where(steps.c.lane == circuits.c.lane, steps.c.account == circuits.c.account, WAITING).exists()
    statement = select(circuits.c.lane, func.count().label("number")).where(circuits.c.opened_at.is_not(None), waits)
    return {row.lane: row.number for row in connection.execute(statement.group_by(circuits.c.lane))}


def view(found: RowMapping | None) -> dict[str, Any] | None:
    """An open circuit as a tenant queue shows it."""
    return None if found is None else {name: found[name] for name in VIEW_FIELDS}
