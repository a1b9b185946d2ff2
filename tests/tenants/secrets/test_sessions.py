"""Sealed sessions: what is in the database cannot be read, moved to another account, or opened with another key."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select, update

from tenants.database.models import Session
from tenants.database.transactions import Database
from tenants.errors import NotFound, SecretsError
from tenants.secrets.sealing import Sealer, new_key
from tenants.secrets.sessions import Sessions

STATE = {"cookies": [{"name": "sid", "value": "very-secret"}]}
CREDENTIALS = {"username": "ann", "password": "pass-word-1"}


@pytest.fixture
def sessions(database: Database) -> Sessions:
    return Sessions(database, Sealer([new_key()]))


def test_a_session_comes_back_as_it_was(sessions: Sessions) -> None:
    described = sessions.put("acme", storage_state=STATE, credentials=CREDENTIALS)
    assert described["status"] == "ready"
    opened = sessions.load("acme")
    assert opened is not None
    assert (opened.storage_state, opened.credentials) == (STATE, CREDENTIALS)
    assert "very-secret" not in repr(opened)


def test_a_part_that_is_not_given_stays(sessions: Sessions) -> None:
    sessions.put("acme", storage_state=None, credentials=CREDENTIALS)
    sessions.put("acme", storage_state=STATE, credentials=None)
    opened = sessions.load("acme")
    assert opened is not None
    assert opened.credentials == CREDENTIALS


def test_nothing_readable_is_stored(sessions: Sessions, database: Database) -> None:
    sessions.put("acme", storage_state=STATE, credentials=CREDENTIALS)
    row = database.read(lambda c: c.execute(select(Session.__table__)).mappings().one())
    stored = bytes(row["storage_state"]) + bytes(row["credentials"])
    assert b"secret" not in stored
    assert b"pass-word" not in stored


def test_a_row_moved_to_another_account_does_not_open(sessions: Sessions, database: Database) -> None:
    sessions.put("acme", storage_state=STATE, credentials=None)
    table = Session.__table__
    database.write(lambda c: c.execute(update(table).values(account="other")))
    with pytest.raises(SecretsError, match="other"):
        sessions.load("other")


def test_keys_rotate(database: Database) -> None:
    old, new = new_key(), new_key()
    Sessions(database, Sealer([old])).put("acme", storage_state=STATE, credentials=None)
    assert Sessions(database, Sealer([new, old])).load("acme") is not None
    with pytest.raises(SecretsError, match="another secret key"):
        Sessions(database, Sealer([new])).load("acme")


def test_short_keys_are_refused() -> None:
    with pytest.raises(SecretsError, match="shorter"):
        Sealer(["short"])


def test_no_session(sessions: Sessions) -> None:
    assert sessions.describe("nobody")["status"] == "none"
    assert sessions.load("nobody") is None
    with pytest.raises(NotFound, match="nobody"):
        sessions.delete("nobody")


def test_sealing_the_same_value_twice_gives_different_bytes() -> None:
    sealer = Sealer([new_key()])
    one, two = (sealer.seal(STATE, account="a", purpose="p") for _ in range(2))
    assert one != two
    assert json.dumps(sealer.open(one, account="a", purpose="p")) == json.dumps(STATE)
