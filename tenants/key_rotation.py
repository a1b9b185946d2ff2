"""Changing the secret key: every sealed value is opened with the key that sealed it and sealed with the newest.

A few values at a time, each replaced only where it is still the one that was read: so it may run while the service
does, twice at a time, and be killed at any moment; what was done stays done, and a value that somebody sets meanwhile
wins.

Invariant: every sealed column stands in `COLUMNS`; a test holds that against the models.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, Table, cast, func, select, update

from .database import Database
from .errors import SecretsError
from .models import IdempotencyKey, Session, WebhookSecret
from .sealing import BEGINNING_BYTES, Sealer
from .store.idempotency import PURPOSE

answers = IdempotencyKey.__table__


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values, one an account, and what they are bound to."""

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
#: Answers with secrets, kept for a day for a repeat of the call.
ANSWERS = "idempotency_keys.response"


@dataclass(slots=True)
class Tally:
    """Sealed values of one kind by the key that sealed them."""

    newest: int = 0
    older: int = 0
    #: Sealed with a key that is not at hand: nobody can open them.
    unknown: int = 0


@dataclass(slots=True)
class Resealed:
    """What a rotation did."""

    #: Values that were sealed anew, by table and column.
    resealed: dict[str, int] = field(default_factory=dict)
    #: Values that somebody else changed at the same moment: they are newer.
    overtaken: int = 0
    #: What cannot be opened, and why: its key is not at hand, or it is damaged.
    unreadable: list[str] = field(default_factory=list)


def tally(database: Database, sealer: Sealer) -> dict[str, Tally]:
    """How many values each key has sealed, by table and column; nothing is opened."""
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
    """Seal every value anew that the newest key has not sealed. `on_batch` hears how many were done so far."""
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
    """By account, so that what cannot be opened is passed by once."""
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
    """Few: only a call that makes a key or a secret is answered with one."""
    statement = select(answers).where(cast(answers.c.response, String).like('%"sealed"%'))
    for row in database.read(lambda connection: connection.execute(statement).mappings().all()):
        if "sealed" in (row["response"] or {}):
            yield row


def _all(statement: Any) -> Callable[[Connection], Any]:
    return lambda connection: connection.execute(statement).all()
