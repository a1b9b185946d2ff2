"""The table behind `Idempotency-Key`: who comes first runs, everybody else gets the first answer.

Invariants
- The primary key decides who is first, on both databases and over all control planes.
- A call whose control plane died holds its key until that is known; any other for `ABANDONED_SECONDS` at most.
- Who lost a key to another call cannot write its answer, nor, where both are one transaction, what it made.
- Whoever takes such a key over gets the same seed, from which the ids of what is made come: what the dead call has
  made is found by them, and not made twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, case, delete, or_, select, update

from ..columns import db_now, seconds_since, upsert
from ..errors import ClaimLost
from ..models import IdempotencyKey, new_id
from . import control_planes

table = IdempotencyKey.__table__

KEPT_SECONDS = 86_400
#: To what an answer with a secret in it is bound when it is sealed, with its `scope` in the account's place.
PURPOSE = "answer to an idempotency key"
#: Longer than any call runs: store and broker bound each of their waits well below.
ABANDONED_SECONDS = 120
#: How much later than due a renewal may come before its process is suspected.
_RENEWAL_SLACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """`first`: run it · `done`: the answer is here · `running`: its twin has none yet · `conflict`: another body."""

    kind: Literal["first", "done", "running", "conflict"]
    status: int | None = None
    response: dict[str, Any] | None = None
    #: Of a `first`: for the ids of what it makes, and what its answer is written with.
    seed: str = ""
    token: str = ""
    #: Of a `running`: seconds until it is worth to ask again.
    retry_after: float = 1.0


def claim(
    connection: Connection, scope: str, body_hash: str, account: str | None = None, holder: str | None = None
) -> Claim:
    """Take the key, or learn what became of it. In one transaction.

    `account`: whose rows the call is about; `holder`: the control plane that asks.
    """
    token = new_id()
    pending = {"seed": new_id()}
    statement = upsert(connection, table).values(
        scope=scope,
        account=account,
        body_hash=body_hash,
        created_at=db_now(),
        response=pending,
        holder=holder,
        claim=token,
    )
    abandoned = and_(table.c.status.is_(None), table.c.response.is_not(None))
    kept_seed = case((abandoned, table.c.response), else_=statement.excluded.response)
    held_by_dead = and_(table.c.holder.is_not(None), ~control_planes.lives(table.c.holder))
    over = or_(
        table.c.created_at < db_now(-KEPT_SECONDS),
        and_(table.c.status.is_(None), or_(table.c.created_at < db_now(-ABANDONED_SECONDS), held_by_dead)),
    )
    taken = connection.execute(
        statement.on_conflict_do_update(
            index_elements=["scope"],
            set_={
                "account": account,
                "body_hash": body_hash,
                "created_at": db_now(),
                "status": None,
                "response": kept_seed,
                "holder": holder,
                "claim": token,
            },
            where=over,
        ).returning(table.c.response)
    ).first()
    if taken is not None:
        return Claim("first", seed=taken.response["seed"], token=token)
    row = connection.execute(select(table).where(table.c.scope == scope)).mappings().one_or_none()
    if row is None:  # its first call failed and gave the key back in this very moment
        return claim(connection, scope, body_hash, account, holder)
    if row["body_hash"] != body_hash:
        return Claim("conflict")
    if row["status"] is None:
        return Claim("running", retry_after=_retry_after(connection, scope))
    return Claim("done", row["status"], row["response"])


def _retry_after(connection: Connection, scope: str) -> float:
    """A second while the holder's process is heard of; else until it is known dead, and the key is free."""
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
    """Whether the key has a row that counts still."""
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
    """Keep the answer, with the account whose row it shows, where only the answer has it.

    In the transaction of what was made, where that has one: either both are there or neither.

    Raises:
        ClaimLost: the key is another call's by now.
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
    """Nobody knows what became of the call: whoever comes next with the key takes it over, and looks."""
    statement = update(table).where(table.c.scope == scope, table.c.claim == token, table.c.status.is_(None))
    connection.execute(statement.values(created_at=db_now(-(ABANDONED_SECONDS + 1.0))))


def forget(connection: Connection, scope: str, token: str) -> None:
    """The call failed: the key is as if it had never been used."""
    mine = and_(table.c.scope == scope, table.c.claim == token, table.c.status.is_(None))
    connection.execute(delete(table).where(mine))
