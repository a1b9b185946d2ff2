"""Changing the secret key: every sealed value, in any state of affairs, and nothing lost."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import JSON, LargeBinary, select, update

from tenants.database.models import IdempotencyKey, Model, Session
from tenants.database.transactions import Database
from tenants.errors import SecretsError
from tenants.secrets import key_rotation
from tenants.secrets.key_rotation import ANSWERS, COLUMNS, Tally
from tenants.secrets.sealing import Sealer, new_key
from tenants.secrets.sessions import Sessions
from tenants.secrets.webhook_secrets import WebhookSecrets
from tenants.store import idempotency

OLD, NEW = new_key(), new_key()
before, both, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    opened = Database(migrated_url)
    yield opened
    opened.close()


def fill(database: Database, sealer: Sealer, number: int) -> None:
    """So many accounts with a session, credentials and two webhook secrets, and one kept answer with a secret."""
    for each in range(number):
        account = f"account {each:03}"
        Sessions(database, sealer).put(
            account, storage_state={"cookies": [each]}, credentials={"username": "u", "password": f"p{each}"}
        )
        for _ in range(2):
            WebhookSecrets(database, sealer).rotate(account)
    sealed = base64.b64encode(sealer.seal("the answer", account="scope", purpose=idempotency.PURPOSE)).decode()
    database.write(lambda c: idempotency.claim(c, "scope", "hash"))
    database.write(lambda c: idempotency.finish(c, "scope", 201, {"headers": {}, "sealed": sealed}))


def intact(database: Database, sealer: Sealer, number: int) -> None:
    """Everything opens with this sealer, and is what it was."""
    for each in range(number):
        opened = Sessions(database, sealer).load(f"account {each:03}")
        assert opened is not None
        assert (opened.storage_state, opened.credentials) == (
            {"cookies": [each]},
            {"username": "u", "password": f"p{each}"},
        )


def test_every_sealed_column_is_known() -> None:
    """A column of sealed values that is added later fails here until a rotation covers it."""
    binary = {
        f"{table.name}.{column.name}"
        for table in Model.metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, LargeBinary)
    }
    assert binary == {each.label for each in COLUMNS}
    assert isinstance(IdempotencyKey.__table__.c.response.type, JSON)
    assert ANSWERS == "idempotency_keys.response"


def test_a_rotation_ends_with_the_new_key_alone(database: Database) -> None:
    fill(database, before, 7)
    counted = key_rotation.tally(database, both)
    assert {label: each.older for label, each in counted.items()} == {
        **{each.label: 7 for each in COLUMNS},
        ANSWERS: 1,
    }
    progress: list[int] = []

    done = key_rotation.reseal(database, both, batch=3, on_batch=progress.append)

    assert done.resealed == {**{each.label: 7 for each in COLUMNS}, ANSWERS: 1}
    assert (done.unreadable, done.overtaken) == ([], 0)
    assert progress == sorted(progress)
    assert progress[-1] == 29
    assert set(map(repr, key_rotation.tally(database, after).values())) == {repr(Tally(7)), repr(Tally(1))}
    intact(database, after, 7)
    with pytest.raises(SecretsError):
        Sessions(database, before).load("account 000")
    again = key_rotation.reseal(database, both)
    assert set(again.resealed.values()) == {0}, "a second time there is nothing to do"


def test_one_that_was_cut_is_finished_by_the_next(database: Database) -> None:
    """As after a kill in the middle: what was done stays, and all opens at every moment."""
    fill(database, before, 5)

    class Killed(Exception):
        pass

    def kill(number: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        key_rotation.reseal(database, both, batch=2, on_batch=kill)
    assert key_rotation.tally(database, both)["sessions.storage_state"] == Tally(newest=2, older=3)
    intact(database, both, 5)
    assert key_rotation.reseal(database, both).resealed["sessions.storage_state"] == 3
    intact(database, after, 5)


def test_two_at_a_time_and_writers_between_lose_nothing(database: Database) -> None:
    """A session that is set while its old one is sealed anew stays the new one."""
    fill(database, before, 12)
    sessions = Sessions(database, both)
    results: list[Any] = []

    def interfere(number: int) -> None:
        sessions.put("account 011", storage_state={"cookies": ["newer"]}, credentials=None)

    threads = [
        threading.Thread(
            target=lambda: results.append(key_rotation.reseal(database, both, batch=2, on_batch=interfere))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    intact(database, after, 11)
    opened = Sessions(database, after).load("account 011")
    assert opened is not None
    assert opened.storage_state == {"cookies": ["newer"]}
    total = sum(done.resealed["sessions.credentials"] for done in results)
    assert total == 12, "each once"


def test_a_value_that_changes_between_look_and_write_wins(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, before, 1)
    seal = both.seal

    def meanwhile(value: Any, *, account: str, purpose: str) -> bytes:
        if purpose == "storage state" and value == {"cookies": [0]}:
            Sessions(database, both).put(account, storage_state={"cookies": ["newer"]}, credentials=None)
        return seal(value, account=account, purpose=purpose)

    monkeypatch.setattr(both, "seal", meanwhile)
    done = key_rotation.reseal(database, both)
    assert (done.overtaken, done.resealed["sessions.storage_state"]) == (1, 0)
    opened = Sessions(database, after).load("account 000")
    assert opened is not None
    assert opened.storage_state == {"cookies": ["newer"]}


def test_what_cannot_be_opened_is_reported_and_left(database: Database) -> None:
    fill(database, Sealer([new_key()]), 2)
    fill_more = Sessions(database, before)
    fill_more.put("with the old key", storage_state={}, credentials=None)
    damaged = bytes(
        database.read(lambda c: c.execute(select(Session.__table__.c.storage_state)).scalars().first()) or b""
    )
    database.write(
        lambda c: c.execute(
            update(Session.__table__)
            .where(Session.__table__.c.account == "with the old key")
            .values(credentials=before.newest + damaged[5:])
        )
    )
    assert key_rotation.tally(database, both)["sessions.storage_state"] == Tally(older=1, unknown=2)

    done = key_rotation.reseal(database, both, batch=1)

    assert done.resealed["sessions.storage_state"] == 1
    assert len(done.unreadable) == 2 * 4 + 1 + 1
    assert any("damaged" in each for each in done.unreadable)
    assert any("'account 001'" in each and "another secret key" in each for each in done.unreadable)
