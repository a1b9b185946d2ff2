"""The table behind `Idempotency-Key`: who comes first runs, everybody else gets the first answer.

Invariants
- The primary key decides who is first, on both databases and over all control planes.
- A call that died without an answer holds its key for `ABANDONED_SECONDS` at most.
- Whoever takes such a key over gets the same seed, from which the ids of what is made come: what the dead call has
  made is found by them, and not made twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, and_, case, delete, or_, select, update

from ..columns import db_now, upsert
from ..models import IdempotencyKey, new_id

table = IdempotencyKey.__table__

KEPT_SECONDS = 86_400
#: To what an answer with a secret in it is bound when it is sealed, with its `scope` in the account's place.
PURPOSE = "answer to an idempotency key"
#: Longer than any call runs: store and broker bound each of their waits well below.
ABANDONED_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Claim:
    """`first`: run it · `done`: the answer is here · `running`: its twin has none yet · `conflict`: another body."""

    kind: Literal["first", "done", "running", "conflict"]
    status: int | None = None
    response: dict[str, Any] | None = None
    #: Of a `first`: for the ids of what it makes.
    seed: str = ""


def claim(connection: Connection, scope: str, body_hash: str, account: str | None = None) -> Claim:
    """Take the key, or learn what became of it. In one transaction. `account`: whose rows the call is about."""
    pending = {"seed": new_id()}
    statement = upsert(connection, table).values(
        scope=scope, account=account, body_hash=body_hash, created_at=db_now(), response=pending
    )
    abandoned = and_(table.c.status.is_(None), table.c.response.is_not(None))
    kept_seed = case((abandoned, table.c.response), else_=statement.excluded.response)
    over = or_(
        table.c.created_at < db_now(-KEPT_SECONDS),
        and_(table.c.status.is_(None), table.c.created_at < db_now(-ABANDONED_SECONDS)),
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
            },
            where=over,
        ).returning(table.c.response)
    ).first()
    if taken is not None:
        return Claim("first", seed=taken.response["seed"])
    row = connection.execute(select(table).where(table.c.scope == scope)).mappings().one_or_none()
    if row is None:  # its first call failed and gave the key back in this very moment
        return claim(connection, scope, body_hash)
    if row["body_hash"] != body_hash:
        return Claim("conflict")
    if row["status"] is None:
        return Claim("running")
    return Claim("done", row["status"], row["response"])


def is_known(connection: Connection, scope: str) -> bool:
    """Whether the key has a row that counts still."""
    statement = select(table.c.scope).where(table.c.scope == scope, table.c.created_at >= db_now(-KEPT_SECONDS))
    return connection.execute(statement).first() is not None


def finish(
    connection: Connection, scope: str, status: int, response: dict[str, Any], account: str | None = None
) -> None:
    """Keep the answer, with the account whose row it shows, where only that tells it."""
    values: dict[str, Any] = {"status": status, "response": response}
    if account is not None:
        values["account"] = account
    connection.execute(update(table).where(table.c.scope == scope).values(**values))


def abandon(connection: Connection, scope: str) -> None:
    """Nobody knows what became of the call: whoever comes next with the key takes it over, and looks."""
    statement = update(table).where(table.c.scope == scope, table.c.status.is_(None))
    connection.execute(statement.values(created_at=db_now(-(ABANDONED_SECONDS + 1.0))))


def forget(connection: Connection, scope: str) -> None:
    """The call failed: the key is as if it had never been used."""
    connection.execute(delete(table).where(table.c.scope == scope, table.c.status.is_(None)))
