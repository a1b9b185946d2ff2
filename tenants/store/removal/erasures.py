"""Erasing an account: its rows are removed in batches; a row of `erasures` has the status and the counts.

stopping (running steps end) → removing (rows and files) → checking (Redis is emptied; nothing is left) → completed

Invariants
- The account is suspended from the beginning, so nothing of it starts. Until the erasure has finished nothing of it is
  created: every insert for an account calls `accounts.refuse_during_erasure` first, or locks a row that the erasure
  must remove. Its keys work until they are removed too.
- Removed rows are counted in the transaction that removes them, so a crash cannot make the counts wrong.
- One control plane at a time advances an erasure: it locks the row, and others skip locked rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)

from ...database.columns import db_now, seconds_since
from ...database.models import Account, Artifact, Erasure, Fire, Job, Schedule, Step, new_id
from ...errors import AccountBusy, NotFound
from ..accounts import accounts as accounts_store
from ..listings import Page, fetch_one, narrow, read_page
from ..states import RUNNING
from . import holdings
from .holdings import Holding

erasures, accounts, jobs, steps = Erasure.__table__, Account.__table__, Job.__table__, Step.__table__
artifacts = Artifact.__table__
schedules, fires = Schedule.__table__, Fire.__table__

#: Kinds of data outside of the database that an erasure removes.
OUTSIDE = ("files", "redis_messages", "redis_queues", "redis_settings")


# --- requests ------------------------------------------------------------------------------------------------------


def begin(connection: Connection, account: str, *, force: bool, requested_by: str) -> str:
    """Request the account's erasure, and return its id: that of an unfinished one where it exists.

    `force` also forces an unfinished erasure.

    Raises:
        NotFound: the account does not exist.
        AccountBusy: steps of it run, and `force` is not given; nothing was changed.
    """
    row = connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update()).first()
    under_way = accounts_store.unfinished_erasure(connection, account)
    if row is None and under_way is None:
        raise NotFound(f"there is no account {account!r}")
    running = count_running(connection, account)
    if running and not force:
        raise AccountBusy(f"{running} step(s) of account {account!r} run; wait for them, or kill them with force=true")
    if under_way is not None:
        if force:
            connection.execute(update(erasures).where(erasures.c.id == under_way).values(forced=True))
        return under_way
    erasure_id = new_id()
    connection.execute(
        insert(erasures).values(
            id=erasure_id,
            account=account,
            status="stopping",
            forced=force,
            requested_by=requested_by,
            removed={},
            created_at=db_now(),
            updated_at=db_now(),
        )
    )
    connection.execute(update(accounts).where(accounts.c.id == account).values(status="suspended", updated_at=db_now()))
    return erasure_id


def count_running(connection: Connection, account: str) -> int:
    """How many steps of the account run."""
    statement = select(func.count()).where(steps.c.account == account, RUNNING)
    return int(connection.execute(statement).scalar_one())


# --- reading -------------------------------------------------------------------------------------------------------


def fetch(connection: Connection, erasure_id: str) -> RowMapping:
    """One erasure.

    Raises:
        NotFound: there is none of that id.
    """
    statement = select(erasures).where(erasures.c.id == erasure_id)
    return fetch_one(connection, statement, f"there is no erasure {erasure_id!r}")


def page(connection: Connection, *, account: str | None, limit: int, cursor: str | None) -> Page:
    """Erasures, newest first."""
    statement = narrow(select(erasures), (erasures.c.account, account))
    return read_page(connection, statement, erasures.c.id, limit=limit, cursor=cursor)


def unfinished(connection: Connection, *, limit: int) -> Sequence[RowMapping]:
    """Unfinished erasures, oldest first, each with `since`: seconds since its status changed."""
    statement = select(erasures, seconds_since(erasures.c.updated_at).label("since"))
    statement = statement.where(erasures.c.finished_at.is_(None)).order_by(erasures.c.id).limit(limit)
    return connection.execute(statement).mappings().all()


def kinds() -> tuple[str, ...]:
    """The names of all counts of an erasure."""
    return (*sorted(each.table.name for each in holdings.ALL), *OUTSIDE)


# --- progress ------------------------------------------------------------------------------------------------------


def lock(connection: Connection, erasure_id: str, status: str) -> RowMapping | None:
    """The erasure, locked; None when another transaction has locked it, or its status is another."""
    statement = select(erasures).where(
        erasures.c.id == erasure_id, erasures.c.status == status, erasures.c.finished_at.is_(None)
    )
    return connection.execute(statement.with_for_update(skip_locked=True)).mappings().one_or_none()


def set_status(
    connection: Connection,
    locked: RowMapping,
    status: str,
    *,
    removed: Mapping[str, int] | None = None,
    remaining: int | None = None,
) -> None:
    """Set the status of a locked erasure, add to its counts, and set how much a check found."""
    values: dict[str, Any] = {"status": status, "remaining": remaining}
    if status != locked["status"]:
        values["updated_at"] = db_now()
    if removed:
        before = locked["removed"]
        values["removed"] = {**before, **{name: before.get(name, 0) + number for name, number in removed.items()}}
    connection.execute(update(erasures).where(erasures.c.id == locked["id"]).values(**values))


def cancel_running(connection: Connection, account: str) -> None:
    """Request the cancellation of all running jobs; their workers end the steps and record that."""
    running = select(steps.c.job_id).where(steps.c.account == account, RUNNING)
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(running), jobs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=db_now())
    )


def older_transactions(connection: Connection, erasure: RowMapping) -> bool:
    """Whether a transaction is open that began before the erasure, and so may insert rows of the account.

    On SQLite, which has one writer at a time, there is none.
    """
    if connection.dialect.name != "postgresql":
        return False
    found = connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < :began)"
        ),
        {"began": erasure["created_at"]},
    )
    return bool(found.scalar_one())


def remove_some(
    connection: Connection, account: str, *, limit: int, remove_files: Callable[[Sequence[str]], None]
) -> dict[str, int]:
    """Remove up to `limit` jobs of the account with the rows of theirs, or as many rows of another table.

    Returns how many of each table; empty when no index finds any further row. The account's own row is the last. Files
    are removed before the rows that name them, so no file is left without a row; removing a file twice is harmless.
    """
    ids = connection.execute(select(jobs.c.id).where(jobs.c.account == account).limit(limit)).scalars().all()
    if ids:
        return _remove_jobs(connection, ids, remove_files)
    for holding in (*holdings.BESIDE_JOBS, *holdings.SETTINGS):
        if gone := _remove(connection, holding, account, limit):
            return {holding.table.name: gone}
    gone = connection.execute(delete(accounts).where(accounts.c.id == account)).rowcount
    return {"accounts": gone} if gone else {}


def _remove_jobs(
    connection: Connection, ids: Sequence[str], remove_files: Callable[[Sequence[str]], None]
) -> dict[str, int]:
    paths = connection.execute(select(artifacts.c.path).where(artifacts.c.job_id.in_(ids))).scalars().all()
    remove_files(paths)
    return {"files": len(paths), **holdings.remove_jobs(connection, ids)}


def remove_without_jobs(
    connection: Connection, account: str, *, remove_files: Callable[[Sequence[str]], None]
) -> dict[str, int]:
    """Remove rows whose job is gone, such as an artifact that was saved while its job was removed."""
    paths = connection.execute(select(artifacts.c.path).where(artifacts.c.account == account)).scalars().all()
    remove_files(paths)
    removed = {"files": len(paths)}
    for holding in holdings.OF_JOBS:
        removed[holding.table.name] = connection.execute(delete(holding.table).where(holding.owner == account)).rowcount
    return removed


def _remove(connection: Connection, holding: Holding, account: str, limit: int) -> int:
    key: list[ColumnElement[Any]] = list(holding.table.primary_key.columns)
    owned = holding.owner == account
    if holding.table is fires:  # its only index is by schedule
        owned = fires.c.schedule_id.in_(select(schedules.c.id).where(schedules.c.account == account))
    some = select(*key).where(owned).limit(limit)
    return connection.execute(delete(holding.table).where(tuple_(*key).in_(some))).rowcount


def remaining(connection: Connection, account: str) -> dict[str, int]:
    """How many rows of the account each table has, by scans of all tables; tables without any are left out."""
    counts = {each.table.name: holdings.count(connection, each, account) for each in holdings.ALL}
    return {name: number for name, number in counts.items() if number}


def finish(connection: Connection, locked: RowMapping) -> None:
    """Complete the erasure: from now on an account of this name can be created again."""
    connection.execute(
        update(erasures)
        .where(erasures.c.id == locked["id"])
        .values(status="completed", remaining=0, updated_at=db_now(), finished_at=db_now())
    )


def account_exists(connection: Connection, account: str) -> bool:
    """Whether the account exists; a lock keeps it until this transaction ends."""
    statement = select(accounts.c.id).where(accounts.c.id == account).with_for_update(read=True)
    return connection.execute(statement).first() is not None
