"""Rotation of the secret key: every sealed value is opened with its key and sealed with the newest one.

Values are replaced in batches, each only if it is still the one that was read. So a rotation may run beside the
service and twice at once, and can be killed at any moment: replaced values stay, and a concurrent write wins.

Invariant: `COLUMNS` has every sealed column; a test compares it with the models.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, Table, cast, func, select, update

from ..database.models import IdempotencyKey, Session, WebhookSecret
from ..database.transactions import Database
from ..errors import SecretsError
from ..store.idempotency import PURPOSE
from .sealing import BEGINNING_BYTES, Sealer

answers = IdempotencyKey.__table__


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values, one an account, and the purpose that they are bound to."""

    table: Table
    name: str
    purpose: str

    @property
    def column(self) -> ColumnElement[bytes]:
        return self.table.c[self.name]

    @property
    def label(self) -> str:
        return f"{self.table.name}.{self.name}"


COLUMNS = (
    SealedColumn(Session.__table__, "storage_state", "storage state"),
    SealedColumn(Session.__table__, "credentials", "credentials"),
    SealedColumn(WebhookSecret.__table__, "secret", "webhook secret"),
    SealedColumn(WebhookSecret.__table__, "previous", "webhook secret"),
)
#: Answers with secrets, stored for a day for repeated calls.
ANSWERS = "idempotency_keys.response"


@dataclass(slots=True)
class Tally:
    """Counts of sealed values of one kind, by their key."""

    newest: int = 0
    older: int = 0
    #: Sealed with a key that is not configured.
    unknown: int = 0


@dataclass(slots=True)
class Resealed:
    """The result of a rotation."""

    #: Values that were sealed again, by table and column.
    resealed: dict[str, int] = field(default_factory=dict)
    #: Values that were changed concurrently, and left as they are.
    overtaken: int = 0
    #: Messages about values that cannot be opened: their key is not configured, or they are damaged.
    unreadable: list[str] = field(default_factory=list)


def tally(database: Database, sealer: Sealer) -> dict[str, Tally]:
    """Counts of sealed values by table and column; nothing is opened."""
    found = {each.label: Tally() for each in COLUMNS}
    for each in COLUMNS:
        beginning = func.substr(each.column, 1, BEGINNING_BYTES)
        statement = select(beginning, func.count()).where(each.column.is_not(None)).group_by(beginning)
        for raw, number in database.read(_all(statement)):
            _count(found[each.label], sealer, bytes(raw), number)
    found[ANSWERS] = Tally()
    for row in _sealed_answers(database):
        _count(found[ANSWERS], sealer, base64.b64decode(row["response"]["sealed"])[:BEGINNING_BYTES], 1)
    return found


def _count(counts: Tally, sealer: Sealer, beginning: bytes, number: int) -> None:
    if beginning == sealer.newest:
        counts.newest += number
    elif sealer.can_open(beginning):
        counts.older += number
    else:
        counts.unknown += number


def reseal(
    database: Database, sealer: Sealer, *, batch: int = 100, on_batch: Callable[[int], None] = lambda number: None
) -> Resealed:
    """Seal every value again that the newest key has not sealed. `on_batch` gets the number done so far."""
    done = Resealed({each.label: 0 for each in COLUMNS} | {ANSWERS: 0})
    for each in COLUMNS:
        for _ in _reseal_column(database, sealer, each, batch, done):
            on_batch(sum(done.resealed.values()))
    _reseal_answers(database, sealer, done)
    on_batch(sum(done.resealed.values()))
    return done


def _reseal_column(
    database: Database, sealer: Sealer, sealed: SealedColumn, batch: int, done: Resealed
) -> Iterator[None]:
    """In the order of accounts, so that a value that cannot be opened is skipped once."""
    owner, column = sealed.table.c.account, sealed.column
    outdated = func.substr(column, 1, BEGINNING_BYTES) != sealer.newest
    last = ""
    while True:
        statement = select(owner, column).where(column.is_not(None), outdated, owner > last).order_by(owner)
        page = database.read(_all(statement.limit(batch)))
        if not page:
            return
        renewed = []
        for account, value in page:
            try:
                opened = sealer.open(bytes(value), account=account, purpose=sealed.purpose)
            except SecretsError as error:
                done.unreadable.append(str(error))
                continue
            renewed.append((account, bytes(value), sealer.seal(opened, account=account, purpose=sealed.purpose)))

        def write(connection: Connection, renewed: list[tuple[str, bytes, bytes]] = renewed) -> int:
            return sum(
                connection.execute(
                    update(sealed.table).where(owner == account, column == before).values({sealed.name: after})
                ).rowcount
                for account, before, after in renewed
            )

        written = database.write(write) if renewed else 0
        done.resealed[sealed.label] += written
        done.overtaken += len(renewed) - written
        last = page[-1][0]
        yield


def _reseal_answers(database: Database, sealer: Sealer, done: Resealed) -> None:
    for row in _sealed_answers(database):
        value = base64.b64decode(row["response"]["sealed"])
        if value.startswith(sealer.newest):
            continue
        try:
            opened = sealer.open(value, account=row["scope"], purpose=PURPOSE)
        except SecretsError as error:
            done.unreadable.append(str(error))
            continue
        after = base64.b64encode(sealer.seal(opened, account=row["scope"], purpose=PURPOSE)).decode()
        statement = (
            update(answers)
            .where(answers.c.scope == row["scope"], answers.c.created_at == row["created_at"])
            .values(response={**row["response"], "sealed": after})
        )
        written = database.write(lambda connection, statement=statement: connection.execute(statement).rowcount)  # type: ignore[misc]
        done.resealed[ANSWERS] += written
        done.overtaken += 1 - written


def _sealed_answers(database: Database) -> Iterator[Any]:
    """Sealed answers; they are few, because only calls that create a key or a secret have one."""
    statement = select(answers).where(cast(answers.c.response, String).like('%"sealed"%'))
    for row in database.read(lambda connection: connection.execute(statement).mappings().all()):
        if "sealed" in (row["response"] or {}):
            yield row


def _all(statement: Any) -> Callable[[Connection], Any]:
    return lambda connection: connection.execute(statement).all()
