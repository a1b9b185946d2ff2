"""Erasing an account: its rows removed a few at a time, and a row of its own that says how far it is.

stopping (what runs ends) → removing (rows and files go) → checking (Redis is emptied; nothing is left) → completed

Invariants
- From the first moment the account is suspended, so nothing of it starts; and while the erasure is not finished nothing
  of it comes into being: whoever makes a row for an account asks `refuse` first, or holds a row that the erasure must
  remove. Its keys open until they are removed too, for what is still there.
- What was removed is counted in the transaction that removes it, so the counts are true whatever dies in between.
- One at a time moves an erasure on: its row is held, and others leave it out.
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

from ..columns import db_now, seconds_since
from ..errors import AccountBusy, NotFound
from ..models import Account, Artifact, Erasure, Fire, Job, Schedule, Step, new_id
from . import holdings
from .holdings import Holding
from .listings import Page, newest_first
from .states import RUNNING

erasures, accounts, jobs, steps = Erasure.__table__, Account.__table__, Job.__table__, Step.__table__
artifacts = Artifact.__table__
schedules, fires = Schedule.__table__, Fire.__table__

#: What an erasure removes outside of the database.
OUTSIDE = ("files", "redis_messages", "redis_queues", "redis_settings")


# --- asking for one ------------------------------------------------------------------------------------------------


def begin(connection: Connection, account: str, *, force: bool, requested_by: str) -> str:
    """Ask for the account's erasure; gives back its id.

    One that is under way already is the answer, forced from now on if this call says so.

    Raises:
        NotFound: the account has not come into being.
        AccountBusy: something of it runs, and `force` is not given; nothing was changed.
    """
    row = connection.execute(select(accounts.c.id).where(accounts.c.id == account).with_for_update()).first()
    under_way = _unfinished(connection, account)
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


def refuse(connection: Connection, account: str) -> None:
    """Raises `AccountBusy` while the account is being erased; for whoever makes or changes something of it."""
    erasure_id = _unfinished(connection, account)
    if erasure_id is not None:
        raise AccountBusy(
            f"account {account!r} is being erased (erasure {erasure_id}); it can be used again afterwards"
        )


def _unfinished(connection: Connection, account: str) -> str | None:
    statement = select(erasures.c.id).where(erasures.c.account == account, erasures.c.finished_at.is_(None))
    return connection.execute(statement).scalar_one_or_none()


def count_running(connection: Connection, account: str) -> int:
    """How many steps of the account run."""
    statement = select(func.count()).where(steps.c.account == account, RUNNING)
    return int(connection.execute(statement).scalar_one())


# --- looking -------------------------------------------------------------------------------------------------------


def fetch(connection: Connection, erasure_id: str) -> RowMapping:
    """One erasure.

    Raises:
        NotFound: there is none of that id.
    """
    found = connection.execute(select(erasures).where(erasures.c.id == erasure_id)).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no erasure {erasure_id!r}")
    return found


def page(connection: Connection, *, account: str | None, limit: int, cursor: str | None) -> Page:
    """Erasures, newest first."""
    statement = select(erasures)
    if account is not None:
        statement = statement.where(erasures.c.account == account)
    return newest_first(connection, statement, erasures.c.id, limit=limit, cursor=cursor)


def unfinished(connection: Connection, *, limit: int) -> Sequence[RowMapping]:
    """Erasures to go on with, the oldest first, each with `since`: seconds since its status changed."""
    statement = select(erasures, seconds_since(erasures.c.updated_at).label("since"))
    statement = statement.where(erasures.c.finished_at.is_(None)).order_by(erasures.c.id).limit(limit)
    return connection.execute(statement).mappings().all()


def kinds() -> tuple[str, ...]:
    """Everything that an erasure counts."""
    return (*sorted(each.table.name for each in holdings.ALL), *OUTSIDE)


# --- moving one on -------------------------------------------------------------------------------------------------


def hold(connection: Connection, erasure_id: str, status: str) -> RowMapping | None:
    """The erasure, held until this transaction ends; None when another holds it, or it has moved on."""
    statement = select(erasures).where(
        erasures.c.id == erasure_id, erasures.c.status == status, erasures.c.finished_at.is_(None)
    )
    return connection.execute(statement.with_for_update(skip_locked=True)).mappings().one_or_none()


def move(
    connection: Connection,
    held: RowMapping,
    status: str,
    *,
    removed: Mapping[str, int] | None = None,
    remaining: int | None = None,
) -> None:
    """Set the status of an erasure that is held, add to its counts, and tell what a check found."""
    values: dict[str, Any] = {"status": status, "remaining": remaining}
    if status != held["status"]:
        values["updated_at"] = db_now()
    if removed:
        before = held["removed"]
        values["removed"] = {**before, **{name: before.get(name, 0) + number for name, number in removed.items()}}
    connection.execute(update(erasures).where(erasures.c.id == held["id"]).values(**values))


def cancel_running(connection: Connection, account: str) -> None:
    """Ask for the end of whatever runs: its worker kills it, proves it gone, and writes that down."""
    running = select(steps.c.job_id).where(steps.c.account == account, RUNNING)
    connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(running), jobs.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=db_now())
    )


def older_transactions(connection: Connection, held: RowMapping) -> bool:
    """Whether a transaction is under way that began before the erasure did: it saw no reason to refuse a row.

    On SQLite there is one writer at a time, so there is none.
    """
    if connection.dialect.name != "postgresql":
        return False
    found = connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < :began)"
        ),
        {"began": held["created_at"]},
    )
    return bool(found.scalar_one())


def remove_some(
    connection: Connection, account: str, *, limit: int, remove_files: Callable[[Sequence[str]], None]
) -> dict[str, int]:
    """Remove some rows of the account: `limit` jobs with what hangs on them, or as many rows of another table.

    Gives back how many of each table; empty when no index leads to any more. The account's own row goes last. Files go
    before the rows that name them, so none is left that nothing names; a file that is removed twice is no matter.
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
    removed = {"files": len(paths)}
    for holding in (*holdings.OF_JOBS, *holdings.BESIDE_JOBS):
        table = holding.table
        removed[table.name] = connection.execute(delete(table).where(table.c.job_id.in_(ids))).rowcount
    removed["jobs"] = connection.execute(delete(jobs).where(jobs.c.id.in_(ids))).rowcount
    return removed


def sweep(connection: Connection, account: str, *, remove_files: Callable[[Sequence[str]], None]) -> dict[str, int]:
    """Remove what no job leads to any more, such as evidence that was saved while its job went."""
    paths = connection.execute(select(artifacts.c.path).where(artifacts.c.account == account)).scalars().all()
    remove_files(paths)
    removed = {"files": len(paths)}
    for holding in holdings.OF_JOBS:
        removed[holding.table.name] = connection.execute(delete(holding.table).where(holding.owner == account)).rowcount
    return removed


def _remove(connection: Connection, holding: Holding, account: str, limit: int) -> int:
    key: list[ColumnElement[Any]] = list(holding.table.primary_key.columns)
    owned = holding.owner == account
    if holding.table is fires:  # which only its schedules lead to by an index
        owned = fires.c.schedule_id.in_(select(schedules.c.id).where(schedules.c.account == account))
    some = select(*key).where(owned).limit(limit)
    return connection.execute(delete(holding.table).where(tuple_(*key).in_(some))).rowcount


def remaining(connection: Connection, account: str) -> dict[str, int]:
    """How many rows of the account each table has, by a look at all tables; those without any are left out."""
    counts = {each.table.name: holdings.count(connection, each, account) for each in holdings.ALL}
    return {name: number for name, number in counts.items() if number}


def finish(connection: Connection, held: RowMapping) -> None:
    """Nothing is left: from now on an account of this name starts as new."""
    connection.execute(
        update(erasures)
        .where(erasures.c.id == held["id"])
        .values(status="completed", remaining=0, updated_at=db_now(), finished_at=db_now())
    )


def account_is_there(connection: Connection, account: str) -> bool:
    """Whether the account exists, which then holds while this transaction lasts."""
    statement = select(accounts.c.id).where(accounts.c.id == account).with_for_update(read=True)
    return connection.execute(statement).first() is not None
