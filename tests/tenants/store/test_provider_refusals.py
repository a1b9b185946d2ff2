"""A credential that its provider refuses for good, in the store: beside rests, over when the provider answers."""

from __future__ import annotations

import functools

from sqlalchemy import Connection, select

from tenants.database.models import Alert, Circuit, DeadLetter
from tenants.database.transactions import Database
from tenants.store.accounts.circuits import CircuitPolicy
from tenants.store.attempt import OwnedAttempt
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import provider_backoffs
from tests.tenants.conftest import Bench

SCOPE = "gemini:3f2a"


def fail(connection: Connection, owned: OwnedAttempt) -> None:
    """The step's final failure, for a credential that was refused."""
    finish_steps.fail(
        connection,
        owned,
        outcome="failed",
        error={"code": "provider_error", "message": "no credits"},
        traceback=None,
        message={},
        circuit=CircuitPolicy(failures=2, cooldown_seconds=60.0),
        refused_scope=SCOPE,
    )


def test_a_refusal_is_no_rest_and_ends_with_an_answer(database: Database) -> None:
    database.write(lambda c: provider_backoffs.refuse(c, SCOPE, "no credits"))
    assert database.read(lambda c: provider_backoffs.refusal(c, SCOPE)) == "no credits"
    assert database.read(lambda c: provider_backoffs.rest_seconds(c, SCOPE)) is None, (
        "steps fail at once, and do not wait"
    )
    assert database.read(lambda c: provider_backoffs.refusal(c, "gemini:other")) is None
    database.write(lambda c: provider_backoffs.accepted(c, SCOPE))
    assert database.read(lambda c: provider_backoffs.refusal(c, SCOPE)) is None


def test_a_rest_replaces_a_refusal_and_an_answer_leaves_it(database: Database) -> None:
    database.write(lambda c: provider_backoffs.refuse(c, SCOPE, "no credits"))
    assert database.write(lambda c: provider_backoffs.note(c, SCOPE, 20.0, "a minute's quota")) <= 20.0
    assert database.read(lambda c: provider_backoffs.refusal(c, SCOPE)) is None
    database.write(lambda c: provider_backoffs.accepted(c, SCOPE))
    rest = database.read(lambda c: provider_backoffs.rest_seconds(c, SCOPE))
    assert rest is not None
    assert 0 < rest <= 20.0


def test_all_accounts_together_have_one_alert_and_no_circuit(bench: Bench) -> None:
    for number in range(5):
        _, step = bench.make(f"account {number % 2}")
        bench.write(functools.partial(fail, owned=bench.own(step.id)))
    (alert,) = bench.database.read(lambda c: c.execute(select(Alert.__table__)).mappings().all())
    assert (alert["kind"], alert["account"], alert["occurrences"]) == ("provider_refused", None, 5)
    assert alert["details"]["provider"] == SCOPE
    assert len(bench.database.read(lambda c: c.execute(select(DeadLetter.__table__)).all())) == 5
    assert bench.database.read(lambda c: c.execute(select(Circuit.__table__)).all()) == []
    assert bench.database.read(lambda c: provider_backoffs.refusal(c, SCOPE)) == "no credits"
