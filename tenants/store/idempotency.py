"""The table behind `Idempotency-Key`: the first call with a key runs, all others get its answer.

Invariants
- The primary key decides which call is first, on both databases and over all control planes.
- A call whose control plane died holds its key until that is detected; any other for `ABANDONED_SECONDS` at most.
- A call that lost its key to another one cannot write its answer, nor its rows if they are in the same transaction.
- The call that takes such a key over gets the same seed, from which the ids of new rows are derived: rows of the dead
  call are found by their ids, and not created twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, case, delete, or_, select, update

from ..database.columns import db_now, seconds_since, upsert
from ..database.models import IdempotencyKey, new_id
from ..errors import ClaimLost
from . import control_planes

table = IdempotencyKey.__table__

KEPT_SECONDS = 86_400
#: The purpose that a sealed answer is bound to, with its `scope` in the account's place.
PURPOSE = "answer to an idempotency key"
#: Longer than any call can run: store and broker limit each wait to much less.
ABANDONED_SECONDS = 120
#: How late a heartbeat may be before its process is suspected to be dead.
_RENEWAL_SLACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """`first`: run it · `done`: here is the answer · `running`: another call runs it · `conflict`: another body."""

    kind: Literal["first", "done", "running", "conflict"]
    status: int | None = None
    response: dict[str, Any] | None = None
    #: Of a `first`: for the ids of its new rows, and for `finish`.
    seed: str = ""
    token: str = ""
    #: Of a `running`: seconds until the client should ask again.
    retry_after: float = 1.0


def claim(
    connection: Connection, scope: str, body_hash: str, account: str | None = None, holder: str | None = None
) -> Claim:
    """Claim the key, or read its state, in one transaction.

    `account`: the owner of the call's rows; `holder`: the control plane that asks.
    """
    token = new_id()
    values: dict[str, Any] = {
        "account": account,
        "body_hash": body_hash,
        "created_at": db_now(),
        "holder": holder,
        "claim": token,
    }
    statement = upsert(connection, table).values(scope=scope, response={"seed": new_id()}, **values)
    abandoned = and_(table.c.status.is_(None), table.c.response.is_not(None))
    kept_seed = case((abandoned, table.c.response), else_=statement.excluded.response)
    held_by_dead = and_(table.c.holder.is_not(None), ~control_planes.is_alive(table.c.holder))
    over = or_(
        table.c.created_at < db_now(-KEPT_SECONDS),
        and_(table.c.status.is_(None), or_(table.c.created_at < db_now(-ABANDONED_SECONDS), held_by_dead)),
    )
    taken = connection.execute(
        statement.on_conflict_do_update(
            index_elements=["scope"],
            set_={**values, "status": None, "response": kept_seed},
            where=over,
        ).returning(table.c.response)
    ).first()
    if taken is not None:
        return Claim("first", seed=taken.response["seed"], token=token)
    row = connection.execute(select(table).where(table.c.scope == scope)).mappings().one_or_none()
    if row is None:  # the first call failed and released the key since
        return claim(connection, scope, body_hash, account, holder)
    if row["body_hash"] != body_hash:
        return Claim("conflict")
    if row["status"] is None:
        return Claim("running", retry_after=_retry_after(connection, scope))
    return Claim("done", row["status"], row["response"])


def _retry_after(connection: Connection, scope: str) -> float:
    """A second while the holder's process is alive; else the time until its death is certain, and the key free."""
    planes = control_planes.table
    statement = (
        select(seconds_since(table.c.created_at), table.c.holder.is_not(None), seconds_since(planes.c.heartbeat_at))
        .select_from(table.outerjoin(planes, planes.c.id == table.c.holder))
        .where(table.c.scope == scope)
    )
    row: Any = connection.execute(statement).one()
    age, is_held, silent = row
    left: float = ABANDONED_SECONDS - age
    if is_held:
        if silent is not None and silent <= control_planes.RENEWAL_SECONDS + _RENEWAL_SLACK_SECONDS:
            return 1.0
        left = min(left, 0.0 if silent is None else control_planes.DEAD_SECONDS - silent)
    return max(1.0, left)


def is_known(connection: Connection, scope: str) -> bool:
    """Whether the key has a row that has not expired."""
    statement = select(table.c.scope).where(table.c.scope == scope, table.c.created_at >= db_now(-KEPT_SECONDS))
    return connection.execute(statement).first() is not None


def finish(
    connection: Connection,
    scope: str,
    status: int,
    response: dict[str, Any],
    account: str | None = None,
    token: str | None = None,
) -> None:
    """Store the answer, and the account if the claim did not have it.

    Called in the transaction of the call's writes, if it has one, so that both are committed or neither.

    Raises:
        ClaimLost: another call holds the key now.
    """
    values: dict[str, Any] = {"status": status, "response": response}
    if account is not None:
        values["account"] = account
    statement = update(table).where(table.c.scope == scope)
    if token is not None:
        statement = statement.where(table.c.claim == token)
    if not connection.execute(statement.values(**values)).rowcount and token is not None:
        raise ClaimLost("another call with the idempotency key has taken it over; ask again")


def abandon(connection: Connection, scope: str, token: str) -> None:
    """Make the key claimable at once, because the call's outcome is unknown: the next call checks what exists."""
    statement = update(table).where(table.c.scope == scope, table.c.claim == token, table.c.status.is_(None))
    connection.execute(statement.values(created_at=db_now(-(ABANDONED_SECONDS + 1.0))))


def forget(connection: Connection, scope: str, token: str) -> None:
    """Remove the key of a failed call."""
    mine = and_(table.c.scope == scope, table.c.claim == token, table.c.status.is_(None))
    connection.execute(delete(table).where(mine))
