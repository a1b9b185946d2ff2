"""Erasing an account over HTTP: what is refused meanwhile, what goes, what stays, and that nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from dramatiq.errors import ConnectionClosed
from sqlalchemy import insert, select

from orchestrator.loops.eraser import Eraser
from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Event, Job, Model
from tenants.queues import Entry
from tenants.store.removal import erasures, holdings
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api, Bench
from tests.orchestrator.web.held import ODD, account_tables, fill, in_redis, naming, rows
from tests.tenants.queues.lanes import Hand, message

PATH = f"/v1/accounts/{quote(ODD, safe='')}"


def erase(api: Api, path: str = PATH, query: str = "") -> str:
    answer = api.delete(f"{path}{query}")
    assert answer.status_code == 202, answer.text
    erasure_id: str = answer.json()["erasure_id"]
    assert answer.headers["location"] == f"/v1/admin/erasures/{erasure_id}"
    return erasure_id


@pytest.fixture
def eraser(runtime: Runtime) -> Eraser:
    made = Eraser(runtime)
    made.settle_seconds = 0.0
    made.batch = 2
    return made


def finish(api: Api, eraser: Eraser, erasure_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(200):
        eraser.run_once()
        found = api.get(f"/v1/admin/erasures/{erasure_id}").json()
        if found["status"] == "completed":
            return found
    raise AssertionError(f"it does not come to an end: {found}")


def test_every_table_with_an_account_is_erased_and_exported_or_said_to_stay() -> None:
    """A table that is added later fails here until somebody has put it into `holdings`, and said why if it stays."""
    covered = {each.table.name for each in holdings.ALL}
    assert {each.name for each in account_tables()} == covered | set(holdings.STAYS)
    assert not covered & set(holdings.STAYS)
    assert len({each.kind for each in holdings.ALL}) == len(holdings.ALL)
    for each in holdings.ALL:
        assert each.hidden <= set(each.table.c.keys()), each


@ON_BOTH
def test_nothing_is_left_and_nothing_of_others_changes(
    api: Api, runtime: Runtime, eraser: Eraser, new_job: Any
) -> None:
    """All rows and all of Redis are compared, for the erased account and for one whose name differs by little."""
    other = ODD + "x"
    for account in (ODD, other):
        path = f"/v1/accounts/{quote(account, safe='')}"
        for number in range(5):
            headers = {"Idempotency-Key": f"{number}"}
            api.post(f"{path}/jobs", {**JOB, "delay": 300 * (number % 2)}, headers=headers)
        api.put(f"{path}/limits", {"weight": 3, "lanes": {"generate": {"rate": {"limit": 5, "per": 60}}}})
        api.put(f"{path}/session", {"credentials": {"username": "u", "password": "p"}})
        api.post(f"/v1/admin/queues/publish/{quote(account, safe='')}:pause")
        api.post(f"{path}/webhook-secret")
        api.post(f"{path}/keys", {})
        runtime.database.write(lambda c, account=account: fill(c, account, runtime.settings.data_dir))  # type: ignore[misc]
        runtime.settings_sync.sync_account(account)
    orphan = Entry(message(ODD, "generate"), "stray")
    runtime.broker.enqueue_once(orphan)
    assert {each.name for each in account_tables()} - set(naming(runtime.database, ODD)) == set()

    def of_other() -> tuple[Any, Any]:
        kept = {
            name: [row for row in found if other in repr(row)]
            for name, found in rows(runtime.database).items()
            if name != "audit"
        }
        token = f"@{other}".encode()
        return kept, [each for each in in_redis(runtime) if token in each]

    before = of_other()
    assert before[1]
    files = list((runtime.settings.data_dir / "artifacts").iterdir())
    assert len(files) == 2

    done = finish(api, eraser, erase(api))

    assert of_other() == before
    assert set(naming(runtime.database, ODD)) == {"audit", "erasures"} | {
        name for name, found in before[0].items() if found
    }, "the other's name holds this one's"
    for table in account_tables():
        if table.name not in holdings.STAYS:
            column = table.c.id if table.name == "accounts" else table.c.account
            assert not runtime.database.read(
                lambda c, table=table, column=column: c.execute(select(table).where(column == ODD)).all()  # type: ignore[misc]
            ), table.name
    token = f"@{ODD}".encode()
    assert [each for each in in_redis(runtime) if token in each.replace(f"@{other}".encode(), b"")] == []
    assert len(list((runtime.settings.data_dir / "artifacts").iterdir())) == 1
    assert (done["remaining"], done["running"]) == (0, 0)
    removed = done["removed"]
    assert (removed["jobs"], removed["accounts"], removed["files"], removed["artifacts"]) == (6, 1, 1, 1)
    assert (removed["redis_messages"], removed["redis_queues"]) == (4, 1), "late jobs wait in SQL"
    assert removed["redis_settings"] >= 2
    assert set(removed) == {*erasures.OUTSIDE, *(each.table.name for each in holdings.ALL)}
    assert all(removed[each.table.name] for each in holdings.ALL), removed


@ON_BOTH
def test_nothing_of_the_account_comes_into_being_while_it_goes(
    api: Api, eraser: Eraser, new_job: Any, make_key: Callable[..., str]
) -> None:
    new_job()
    own = api.with_key(make_key("acme"))
    account = "/v1/accounts/acme"
    erasure_id = erase(api, account)
    assert api.get(account).json()["status"] == "suspended"
    schedule = {"name": "s", "pipeline": "sample", "every": 60, "input": JOB["input"]}
    tried: list[tuple[str, str, Any]] = [
        ("POST", f"{account}/jobs", JOB),
        ("POST", f"{account}/jobs:batch", {"jobs": [JOB]}),
        ("POST", f"{account}/schedules", schedule),
        ("POST", f"{account}/keys", {}),
        ("POST", f"{account}/webhook-secret", {}),
        ("POST", f"{account}:resume", {}),
        ("POST", "/v1/admin/queues/publish/acme:pause", {}),
        ("POST", "/v1/admin/queues/publish/acme:resume", {}),
        ("PUT", f"{account}/limits", {}),
        ("PUT", f"{account}/session", {"storage_state": {}}),
        ("PUT", f"{account}/target", {"publisher": "demo", "base_url": "http://127.0.0.1:9999"}),
    ]
    for method, path, body in tried:
        answer = api(method, path, body)
        assert (answer.status_code, answer.json()["code"]) == (409, "account_busy"), path
    while eraser.run_once():
        continue
    assert api.get(account).status_code == 404, "its row is gone, and the erasure goes on"
    for method, path, body in tried:
        answer = api(method, path, body)
        assert (answer.status_code, answer.json()["code"]) in ((409, "account_busy"), (404, "not_found")), path
        assert (answer.status_code == 404) == path.endswith((":pause", ":resume"))
    finish(api, eraser, erasure_id)
    assert api.get(account).status_code == 404
    assert own.get("/v1/jobs").status_code == 401, "its keys went too"

    assert api.post(f"{account}/jobs", JOB).status_code == 202
    fresh = api.get(account).json()
    assert (fresh["status"], fresh["usage"]["today"]["jobs"]) == ("active", 1)
    assert len(api.get("/v1/jobs?account=acme").json()["items"]) == 1


@ON_BOTH
def test_what_runs_is_waited_for_or_killed(api: Api, eraser: Eraser, bench: Bench, new_job: Any) -> None:
    """Unforced it is refused, and nothing changes; forced, no row goes before the worker has written the end."""
    job = new_job()
    owned = bench.start(job)
    refused = api.delete("/v1/accounts/acme")
    assert (refused.status_code, refused.json()["code"]) == (409, "account_busy")
    assert api.get("/v1/accounts/acme").json()["status"] == "active"
    assert api.get("/v1/admin/erasures").json()["items"] == []

    erasure_id = erase(api, "/v1/accounts/acme", "?force=true")
    assert erase(api, "/v1/accounts/acme", "?force=true") == erasure_id, "one at a time"
    for _ in range(5):
        eraser.run_once()
    seen = api.get(f"/v1/admin/erasures/{erasure_id}").json()
    assert (seen["status"], seen["running"], seen["forced"], seen["remaining"]) == ("stopping", 1, True, None)
    assert api.get(f"/v1/jobs/{job['id']}").json()["cancel_requested_at"] is not None

    from tenants.store.steps import finish as finish_steps

    bench.write(lambda c: finish_steps.cancel(c, owned))
    done = finish(api, eraser, erasure_id)
    assert (done["removed"]["jobs"], done["removed"]["attempts"], done["remaining"]) == (1, 1, 0)
    assert api.get(f"/v1/jobs/{job['id']}").status_code == 404


@ON_BOTH
def test_a_step_that_began_at_the_last_moment_is_waited_for(
    api: Api, eraser: Eraser, bench: Bench, new_job: Any, runtime: Runtime
) -> None:
    """It started while the account was not suspended yet; without force it is let to its end."""
    job = new_job()
    owned = bench.start(job)
    steps = Model.metadata.tables["steps"]
    hide = steps.update().where(steps.c.id == owned.step_id)
    bench.write(lambda c: c.execute(hide.values(status="queued")))
    erasure_id = erase(api, "/v1/accounts/acme")
    bench.write(lambda c: c.execute(hide.values(status="running")))
    for _ in range(5):
        eraser.run_once()
    assert api.get(f"/v1/admin/erasures/{erasure_id}").json()["status"] == "stopping"
    assert api.get(f"/v1/jobs/{job['id']}").json()["cancel_requested_at"] is None
    bench.fail(owned)
    assert finish(api, eraser, erasure_id)["removed"]["dead_letters"] == 1


@ON_BOTH
def test_what_comes_late_is_found_by_the_check(
    api: Api, eraser: Eraser, runtime: Runtime, new_job: Any, bench: Bench
) -> None:
    """A row and a message that come after everything was removed, from somebody who had looked before."""
    job = new_job()
    hand = Hand(runtime.broker, lane="generate")
    lease = hand.claim_one()  # a worker has it, and has not begun
    erasure_id = erase(api, "/v1/accounts/acme")
    while eraser.run_once():
        continue
    assert api.get(f"/v1/admin/erasures/{erasure_id}").json()["status"] == "checking"
    event = {"account": "acme", "job_id": job["id"], "type": "log", "data": {}, "created_at": db_now()}
    bench.write(lambda c: c.execute(insert(Event.__table__).values(**event)))
    runtime.broker.enqueue_once(Entry(message("acme", "generate"), "late"))

    for _ in range(8):
        eraser.run_once()
    seen = api.get(f"/v1/admin/erasures/{erasure_id}").json()
    assert seen["status"] == "checking"
    assert seen["remaining"] > 0, "a message that a worker holds is not taken from it"
    hand.settle(lease)
    assert finish(api, eraser, erasure_id)["remaining"] == 0
    assert b"@acme" not in b"".join(in_redis(runtime))
    assert not runtime.database.read(lambda c: c.execute(select(Event.__table__)).all())


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_a_transaction_that_began_before_is_waited_for(
    api: Api, eraser: Eraser, runtime: Runtime, new_job: Any
) -> None:
    """It saw an active account, and makes its row only after the erasure has begun."""
    new_job()
    with runtime.database.engine.connect() as early:
        early.execute(select(Job.__table__.c.id))
        erasure_id = erase(api, "/v1/accounts/acme")
        for _ in range(5):
            eraser.run_once()
        assert api.get(f"/v1/admin/erasures/{erasure_id}").json()["status"] == "stopping"
        event = {"account": "acme", "job_id": "x", "type": "log", "data": {}, "created_at": db_now()}
        early.execute(insert(Event.__table__).values(**event))
        early.commit()
    assert finish(api, eraser, erasure_id)["removed"]["events"] == 2
    assert set(naming(runtime.database, "acme")) == {"audit", "erasures"}


def test_without_redis_an_erasure_waits(
    api: Api, eraser: Eraser, runtime: Runtime, new_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun, and refuses what is new; it goes on when Redis is back."""
    new_job()
    erasure_id = erase(api, "/v1/accounts/acme")

    def away(*_: Any) -> Any:
        raise ConnectionClosed(None)  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patch:
        patch.setattr(type(runtime.broker.queues_admin), "lanes", away)
        for _ in range(3):
            with pytest.raises(ConnectionClosed):
                eraser.run_once()
        assert api.get(f"/v1/admin/erasures/{erasure_id}").json()["removed"]["jobs"] == 0
        assert api.post("/v1/accounts/acme/jobs", JOB).json()["code"] == "account_busy"
    assert finish(api, eraser, erasure_id)["removed"]["jobs"] == 1


def test_a_dead_message_of_the_account_goes_too(api: Api, eraser: Eraser, runtime: Runtime, new_job: Any) -> None:
    new_job()
    hand = Hand(runtime.broker, lane="generate")
    hand.settle(hand.claim_one(), "bury")
    finish(api, eraser, erase(api, "/v1/accounts/acme"))
    assert b"acme" not in b"".join(in_redis(runtime))
    assert set(naming(runtime.database, "acme")) == {"audit", "erasures"}


def test_the_audit_reports_who_asked_and_what_went(api: Api, eraser: Eraser, new_job: Any) -> None:
    new_job()
    erasure_id = erase(api, "/v1/accounts/acme")
    done = finish(api, eraser, erasure_id)
    newest, asked = api.get("/v1/admin/audit").json()["items"][:2]
    assert (newest["actor"], newest["action"]) == ("eraser", "account erased")
    assert newest["details"]["removed"]["jobs"] == done["removed"]["jobs"] == 1
    assert (asked["action"], asked["target"]) == ("DELETE /v1/accounts/{account}", "/v1/accounts/acme")
    assert asked["details"]["after"] == {"erasure": erasure_id, "force": False}
    assert done["requested_by"] == "admin:admin"
    assert [each["id"] for each in api.get("/v1/admin/erasures?account=acme").json()["items"]] == [erasure_id]
    assert api.get("/v1/admin/erasures?account=other").json()["items"] == []


def test_what_is_not_there_cannot_be_erased(api: Api) -> None:
    assert api.delete("/v1/accounts/nobody").status_code == 404
    assert api.get("/v1/admin/erasures/0199c0de-0000-7000-8000-000000000000").status_code == 404


def test_two_control_planes_erase_side_by_side(api: Api, runtime: Runtime, eraser: Eraser, new_job: Any) -> None:
    for _ in range(7):
        new_job()
    erasure_id = erase(api, "/v1/accounts/acme")
    second = Eraser(runtime)
    second.settle_seconds, second.batch = 0.0, 3
    for _ in range(30):
        eraser.run_once()
        second.run_once()
    done = api.get(f"/v1/admin/erasures/{erasure_id}").json()
    assert (done["status"], done["removed"]["jobs"]) == ("completed", 7)
    assert not runtime.database.read(lambda c: c.execute(select(Job.__table__)).all())
