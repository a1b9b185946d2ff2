"""Circuits: a tenant queue whose steps keep failing lets nothing start for a while, and then one canary.

    closed ──n steps in a row ended for good──▶ open ──its time has come──▶ one canary starts
       ▲                                         ▲                              │
       └──────────────── it completes ───────────┴── it fails: twice the time ──┘

A row counts the failures in a row; a step that completes removes it. The canary is an attempt: when it is lost, snoozed
or cancelled it says nothing, and another one may start a cooldown after it did.

Invariants
- Each change is one guarded statement, by the database's clock. Redis is told afterwards; SQL decides at each start.
- One canary at a time: letting one through puts `until` off in the same statement, so that whoever comes second finds
  it in the future; and none is let through while the one before runs, for which `until` is put off again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, delete, func, or_, select, update

from .. import webhooks
from ..columns import db_now, upsert
from ..models import Circuit, Step
from . import alerts
from .attempt import OwnedAttempt
from .listings import Page, by_name
from .states import WAITING

circuits, steps = Circuit.__table__, Step.__table__

#: A cooldown doubles up to this, or stays as it was set where that is longer.
LONGEST_COOLDOWN_SECONDS = 3600.0
#: Failures that say nothing of the next step: a missing session pauses the lane by itself, until there is one.
_UNCOUNTED = frozenset({"login_required"})


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a circuit opens, and for how long at first."""

    #: Steps in a row that end for good without success.
    failures: int
    cooldown_seconds: float

    @property
    def longest_seconds(self) -> float:
        """What a cooldown doubles up to."""
        return max(LONGEST_COOLDOWN_SECONDS, self.cooldown_seconds)


# --- what attempts do to it ----------------------------------------------------------------------------------------


def failed(connection: Connection, owned: OwnedAttempt, policy: CircuitPolicy | None, code: str) -> None:
    """A step ended for good without success. Not counted: best-effort steps, webhooks, all without a policy.

    A webhook's delivery has a day of tries of its own, and its receiver's fault must not delay the other calls' tries.
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
        alerts.note(connection, "circuit_open", account=owned.account, subject=(owned.lane,), details=details)


def reopen(connection: Connection, owned: OwnedAttempt, policy: CircuitPolicy) -> bool:
    """The canary's attempt failed: wait twice as long. False when it is the circuit's canary no more."""
    longest = policy.longest_seconds
    doubled = case((circuits.c.cooldown_seconds * 2 > longest, longest), else_=circuits.c.cooldown_seconds * 2)
    return bool(
        connection.execute(
            update(circuits)
            .where(_is_canary(owned))
            .values(
                failures=circuits.c.failures + 1,
                until=db_now(doubled),
                cooldown_seconds=doubled,
                canary_step_id=None,
                canary_run_token=None,
                updated_at=db_now(),
            )
        ).rowcount
    )


def let_canary_start(connection: Connection, lane: str, account: str, step_id: str, run_token: int) -> bool:
    """Make this attempt the canary, if the time has come and none runs. It has yet to take its step.

    While one runs `until` is put off nonetheless: Redis, which is told of it, would otherwise let the whole queue come
    and be refused, again and again for as long as the canary takes.
    """
    runs = (
        select(1)
        .where(
            steps.c.id == circuits.c.canary_step_id,
            steps.c.run_token == circuits.c.canary_run_token,
            steps.c.status == "running",
        )
        .exists()
    )
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
    """A step went well: its failures in a row are over, and a canary closes the circuit."""
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
        alerts.note(connection, "circuit_closed", account=owned.account, subject=(owned.lane,), details=details)


def _of(account: str, lane: str) -> ColumnElement[bool]:
    return and_(circuits.c.account == account, circuits.c.lane == lane)


def _is_canary(owned: OwnedAttempt) -> ColumnElement[bool]:
    return and_(
        _of(owned.account, owned.lane),
        circuits.c.opened_at.is_not(None),
        circuits.c.canary_step_id == owned.step_id,
        circuits.c.canary_run_token == owned.run_token,
    )


# --- what people do to it ------------------------------------------------------------------------------------------


def close(connection: Connection, account: str, lane: str | None = None) -> list[str]:
    """Forget the failures of a tenant queue, or of all the account's; gives back the lanes whose circuit was open."""
    statement = delete(circuits).where(circuits.c.account == account)
    if lane is not None:
        statement = statement.where(circuits.c.lane == lane)
    rows = connection.execute(statement.returning(circuits.c.lane, circuits.c.opened_at))
    return sorted(row.lane for row in rows if row.opened_at is not None)


def close_all(connection: Connection) -> list[str]:
    """Forget every failure, because circuits were turned off; gives back the accounts that had an open one."""
    rows = connection.execute(delete(circuits).returning(circuits.c.account, circuits.c.opened_at))
    return sorted({row.account for row in rows if row.opened_at is not None})


def forget(connection: Connection, *, older_than: float) -> None:
    """Remove those of queues that were not used for so many seconds since: nobody's row stays for ever."""
    unused = func.coalesce(circuits.c.until, circuits.c.updated_at) < db_now(-older_than)
    connection.execute(delete(circuits).where(unused, circuits.c.updated_at < db_now(-older_than)))


# --- looking -------------------------------------------------------------------------------------------------------

_runs = steps.alias("canary")
_VIEW = (
    select(
        circuits.c.account,
        circuits.c.lane,
        case(
            (or_(circuits.c.until <= db_now(), _runs.c.id.is_not(None)), "half_open"),
            else_="open",
        ).label("status"),
        circuits.c.failures,
        circuits.c.opened_at,
        circuits.c.until,
        circuits.c.cooldown_seconds,
    )
    .join(
        _runs,
        and_(
            _runs.c.id == circuits.c.canary_step_id,
            _runs.c.run_token == circuits.c.canary_run_token,
            _runs.c.status == "running",
        ),
        isouter=True,
    )
    .where(circuits.c.opened_at.is_not(None))
)

#: Of an open circuit, as people see it; `half_open` once its canary may start, and while it runs.
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
    statement = _VIEW.add_columns(name)
    if account is not None:
        statement = statement.where(circuits.c.account == account)
    if lane is not None:
        statement = statement.where(circuits.c.lane == lane)
    return by_name(connection, statement, name, limit=limit, cursor=cursor)


def open_by_lane(connection: Connection) -> dict[str, int]:
    """How many open circuits of each lane hold something up; one that nothing waits for is nobody's trouble."""
    held = (
        select(1)
        .where(
            steps.c.lane == circuits.c.lane,
            steps.c.account == circuits.c.account,
            WAITING,
        )
        .exists()
    )
    statement = select(circuits.c.lane, func.count().label("number")).where(circuits.c.opened_at.is_not(None), held)
    return {row.lane: row.number for row in connection.execute(statement.group_by(circuits.c.lane))}


def view(found: RowMapping | None) -> dict[str, Any] | None:
    """An open circuit as a tenant queue shows it."""
    return None if found is None else {name: found[name] for name in VIEW_FIELDS}
