"""`Idempotency-Key`: one effect, one answer."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from starlette.testclient import TestClient

from orchestrator.control.jobs import Jobs
from orchestrator.runtime import Runtime
from orchestrator.web.app import ROUTES
from orchestrator.web.http.paths import PathTable, Template, split_path
from orchestrator.web.http.routing import Reply, Route
from tenants.database.columns import db_now
from tenants.database.models import derived_id, new_id
from tenants.database.transactions import CommitUnknown
from tenants.errors import Unavailable
from tenants.store import audit, control_planes, idempotency
from tenants.store.accounts import keys
from tests.orchestrator.web.conftest import JOB, ON_BOTH, Api

JOBS = "/v1/accounts/acme/jobs"


def once(key: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": key}}


def count(api: Api) -> int:
    return len(api.get("/v1/jobs?limit=200").json()["items"])


@ON_BOTH
def test_a_repeat_gives_the_first_answer(api: Api) -> None:
    first = api.post(JOBS, {**JOB, "priority": 5}, **once("k"))
    reordered = json.dumps({"priority": 5.0, "input": JOB["input"], "pipeline": "sample"}, indent=2)
    again = api("POST", JOBS, content=reordered, headers={"Idempotency-Key": "k", "Content-Type": "application/json"})

    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert count(api) == 1


def test_another_body_is_a_conflict(api: Api) -> None:
    api.post(JOBS, JOB, **once("k"))
    for body in ({**JOB, "priority": 1}, {**JOB, "approval": True}, {**JOB, "input": {"topic": "else"}}):
        answer = api.post(JOBS, body, **once("k"))
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert count(api) == 1


def test_the_key_is_the_callers_and_the_paths(api: Api, make_key: Callable[..., str]) -> None:
    api.post(JOBS, JOB, **once("k"))
    for answer in (
        api.post("/v1/accounts/else/jobs", JOB, **once("k")),
        api.post("/v1/accounts/ACME/jobs", JOB, **once("k")),
        api.with_key(make_key("acme")).post(JOBS, JOB, **once("k")),
        api.post(f"{JOBS}:batch", {"jobs": [JOB]}, **once("k")),
    ):
        assert answer.status_code == 202
        assert "idempotency-replayed" not in answer.headers
    assert count(api) == 5


def test_one_account_is_one_scope_however_its_name_is_encoded(api: Api) -> None:
    """`/au2/` and `/%61u2/` made two jobs."""
    first = api.post("/v1/accounts/au2/jobs", JOB, **once("k"))
    for path in ("/v1/accounts/%61u2/jobs", "/v1/accounts/a%75%32/jobs", "/%76%31/accounts/au2/jobs"):
        again = api.post(path, JOB, **once("k"))
        assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert count(api) == 1
    for path in ("/v1/accounts/au%2F2/jobs", "/v1/accounts/au%252F2/jobs", "/v1/accounts/Au2/jobs"):
        assert "idempotency-replayed" not in api.post(path, JOB, **once("k")).headers


@given(st.fixed_dictionaries({"account": st.text(min_size=1, max_size=8), "id": st.text(min_size=1, max_size=8)}))
def test_paths_made_from_parameters_are_read_back_as_these(parameters: dict[str, str]) -> None:
    template = Template.parse("/v1/accounts/{account}/keys/{id}:rotate")
    path = split_path(template.fill(parameters).encode())
    assert path is not None
    assert PathTable([(template, 1)]).find(path) == (1, parameters)


def test_an_error_is_not_kept(api: Api) -> None:
    assert api.post(JOBS, {**JOB, "pipeline": "nope"}, **once("k")).status_code == 422
    assert api.post(JOBS, {**JOB, "input": {}}, **once("k")).status_code == 422
    assert api.post(JOBS, JOB, **once("k")).status_code == 202


def test_a_batch_counts_as_one(api: Api) -> None:
    for _ in range(2):
        assert len(api.post(f"{JOBS}:batch", {"jobs": [JOB] * 3}, **once("k")).json()["items"]) == 3
    assert count(api) == 3


@ON_BOTH
def test_of_many_at_once_one_runs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins of a call that still runs are reported so; none of them makes a second job."""
    inside, go_on = threading.Event(), threading.Event()
    real = Jobs.create

    def slow(self: Jobs, *args: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return real(self, *args)

    monkeypatch.setattr(Jobs, "create", slow)
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(api.post(JOBS, JOB, **once("k"))))
    first.start()
    assert inside.wait(60)
    twin = api.post(JOBS, JOB, **once("k"))
    other = api.post(JOBS, {**JOB, "priority": 1}, **once("k"))
    go_on.set()
    first.join(60)

    assert (twin.status_code, twin.json()["code"]) == (409, "idempotency_in_progress")
    assert twin.headers["retry-after"]
    assert other.json()["code"] == "idempotency_conflict"
    assert answers[0].status_code == 202
    assert api.post(JOBS, JOB, **once("k")).headers["idempotency-replayed"] == "true"
    assert count(api) == 1


@pytest.mark.parametrize("key", ["", " ", "é", "x" * 256, "a\tb"])
def test_a_key_out_of_shape_is_422(api: Api, key: str) -> None:
    answer = api("POST", JOBS, JOB, headers={"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["Idempotency-Key"])


@ON_BOTH
def test_after_a_day_and_after_a_crash_the_key_is_free_again(api: Api, runtime: Runtime) -> None:
    table = idempotency.table

    def age(seconds: int, **values: Any) -> None:
        runtime.database.write(lambda c: c.execute(update(table).values(created_at=db_now(-seconds), **values)))

    api.post(JOBS, JOB, **once("k"))
    age(idempotency.KEPT_SECONDS + 1)
    assert "idempotency-replayed" not in api.post(JOBS, {**JOB, "priority": 1}, **once("k")).headers
    age(10, status=None, response=None)
    assert api.post(JOBS, {**JOB, "priority": 1}, **once("k")).json()["code"] == "idempotency_in_progress"
    age(idempotency.ABANDONED_SECONDS + 1, status=None, response=None)
    assert api.post(JOBS, JOB, **once("k")).status_code == 202


def post_and_lose_the_answer(api: Api, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The database goes away, or the control plane dies, after the commit of what was asked for."""

    def away(*arguments: Any) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(idempotency, "finish", away)
        answer = api.post(path, body, **once("k"))
    assert answer.status_code == 202, "it was accepted; to say anything else would be wrong"
    assert api.post(path, body, **once("k")).json()["code"] == "idempotency_in_progress"


@ON_BOTH
@pytest.mark.parametrize("batch", [False, True])
def test_what_was_made_without_an_answer_is_found_by_the_next_try(
    api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, batch: bool
) -> None:
    path, body = (f"{JOBS}:batch", {"jobs": [JOB] * 3}) if batch else (JOBS, JOB)
    post_and_lose_the_answer(api, path, body, monkeypatch)
    made = {job["id"] for job in api.get("/v1/jobs").json()["items"]}
    assert len(made) == (3 if batch else 1)
    table = idempotency.table
    age = db_now(-(idempotency.ABANDONED_SECONDS + 1))
    runtime.database.write(lambda c: c.execute(update(table).values(created_at=age)))

    answer = api.post(path, body, **once("k"))

    assert answer.status_code == 202
    reported = answer.json()["items"] if batch else [answer.json()]
    assert {job["id"] for job in reported} == made
    assert count(api) == len(made)
    assert api.post(path, body, **once("k")).headers["idempotency-replayed"] == "true"


@ON_BOTH
@pytest.mark.parametrize("takes_effect", [True, False])
def test_a_commit_whose_answer_was_lost_is_reported_and_safely_repeated(
    api: Api, monkeypatch: pytest.MonkeyPatch, takes_effect: bool
) -> None:
    real = Jobs.create

    def lose_the_answer(self: Jobs, *arguments: Any) -> Any:
        if takes_effect:
            real(self, *arguments)
        raise CommitUnknown("the database connection was lost in the middle of a commit")

    with monkeypatch.context() as patched:
        patched.setattr(Jobs, "create", lose_the_answer)
        unknown = api.post(JOBS, JOB, **once("k"))
    assert (unknown.status_code, unknown.json()["code"]) == (503, "unavailable")
    assert "nothing was accepted" not in unknown.json()["detail"]
    assert "it is unknown whether the request took effect" in unknown.json()["detail"]
    answer = api.post(JOBS, JOB, **once("k"))
    assert answer.status_code == 202
    assert count(api) == 1


def test_a_key_of_a_dead_call_with_another_body_makes_what_it_asks_for(
    api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    post_and_lose_the_answer(api, JOBS, JOB, monkeypatch)
    runtime.database.write(lambda c: c.execute(update(idempotency.table).values(created_at=db_now(-1000))))
    other = api.post(JOBS, {**JOB, "priority": 1}, **once("k")).json()
    assert other["priority"] == 1
    assert count(api) == 2


def test_derived_ids_are_ids_and_their_own() -> None:
    seed = new_id()
    made = [derived_id(seed, number) for number in range(1000)]
    assert len({*made, seed}) == 1001
    assert made == [derived_id(seed, number) for number in range(1000)]
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in made} == {(7, uuid.RFC_4122)}
    assert {each[:13] for each in made} == {seed[:13]}, "they sort by the seed's time"


def test_a_key_that_was_made_is_given_again_and_kept_sealed(api: Api, runtime: Runtime) -> None:
    first = api.post("/v1/accounts/acme/keys", {"name": "n"}, **once("k")).json()
    again = api.post("/v1/accounts/acme/keys", {"name": "n"}, **once("k"))

    assert again.json() == first
    kept = runtime.database.read(lambda c: c.execute(select(idempotency.table.c.response)).scalar_one())
    assert first["key"] not in json.dumps(kept)
    assert len(api.get("/v1/accounts/acme/keys").json()["items"]) == 1


def die(runtime: Runtime, silent_seconds: float) -> None:
    """Every control plane was last received of so many seconds ago."""
    table = control_planes.table
    runtime.database.write(lambda c: c.execute(update(table).values(heartbeat_at=db_now(-silent_seconds))))


@contextlib.contextmanager
def no_renewal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the processes had died: their rows are not renewed."""
    with monkeypatch.context() as patched:
        patched.setattr(control_planes, "renew", lambda *arguments, **named: None)
        yield


@ON_BOTH
def test_a_key_is_free_as_soon_as_its_control_plane_is_known_dead(
    api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was 409 for two minutes, with `Retry-After: 1`: 200 tries."""
    post_and_lose_the_answer(api, JOBS, JOB, monkeypatch)
    alive = api.post(JOBS, JOB, **once("k"))
    assert (alive.status_code, alive.headers["retry-after"]) == (409, "1")
    with no_renewal(monkeypatch):
        die(runtime, 6)
        silent = api.post(JOBS, JOB, **once("k"))
        assert silent.json()["code"] == "idempotency_in_progress"
        assert 3 <= int(silent.headers["retry-after"]) <= control_planes.DEAD_SECONDS - 6
        die(runtime, control_planes.DEAD_SECONDS + 1)
        assert api.post(JOBS, JOB, **once("k")).status_code == 202
        assert count(api) == 1


def test_a_key_is_free_at_once_after_an_orderly_stop(
    api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    post_and_lose_the_answer(api, JOBS, JOB, monkeypatch)
    (stopped,) = runtime.database.read(lambda c: c.execute(select(control_planes.table.c.id)).scalars().all())
    with no_renewal(monkeypatch):
        runtime.database.write(lambda c: control_planes.stop(c, stopped))
        assert api.post(JOBS, JOB, **once("k")).status_code == 202
    assert count(api) == 1


def test_a_key_of_a_version_without_liveness_is_held_for_its_time(api: Api, runtime: Runtime) -> None:
    table = idempotency.table
    api.post(JOBS, JOB, **once("k"))
    age = {"created_at": db_now(-20), "status": None, "response": None, "holder": None}
    runtime.database.write(lambda c: c.execute(update(table).values(**age)))
    answer = api.post(JOBS, JOB, **once("k"))
    assert answer.status_code == 409
    assert 95 <= int(answer.headers["retry-after"]) <= idempotency.ABANDONED_SECONDS - 20


CREATING = [route for route in ROUTES if route.creates]


def creating_call(api: Api, route: Route) -> tuple[str, Any, Callable[[], int]]:
    """A call of the route, and how many of what it makes are there."""
    kept = {"name": "s", "pipeline": "sample", "every": 60, "input": JOB["input"]}
    path = route.path.replace("{account}", "acme")
    if path.endswith("/jobs"):
        return path, JOB, lambda: count(api)
    if path.endswith(":batch"):
        return path, {"jobs": [JOB] * 2}, lambda: count(api)
    if path.endswith("/schedules"):
        return path, kept, lambda: len(api.get("/v1/schedules").json()["items"])
    if path.startswith("/v1/schedules/"):
        made = api.post("/v1/accounts/acme/schedules", kept).json()["id"]
        return path.replace("{id}", made), None, lambda: count(api)
    if path.endswith("/webhook-secret"):

        def rotations() -> int:
            found = api.get(path)
            return 0 if found.status_code == 404 else 1 + (found.json()["previous_until"] is not None)

        return path, None, rotations
    keys_path = path.removesuffix("/{id}:rotate")
    if path.endswith(":rotate"):
        path = path.replace("{id}", api.post(keys_path, {"name": "n"}).json()["id"])
    return path, {}, lambda: len(api.get(keys_path).json()["items"])


class Died(Exception):
    """The process ends here, as far as the call is concerned."""


@ON_BOTH
@pytest.mark.parametrize("route", CREATING, ids=lambda route: route.operation_id)
def test_what_a_dead_control_plane_has_made_is_found_again_by_every_post(
    api: Api, client: TestClient, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, route: Route
) -> None:
    """It died after the commit of what was asked for, before anybody had the answer."""
    path, body, number = creating_call(api, route)
    before = number()
    with monkeypatch.context() as patched:
        patched.setattr(audit, "record", _die)
        patched.setattr(Reply, "response", _die)
        died = client.post(path, json=body or {}, headers={**api.headers, "Idempotency-Key": "k"})
    assert died.status_code == 500
    made = number()
    assert made > before
    with no_renewal(monkeypatch):
        die(runtime, 60)
        again = api.post(path, body or {}, **once("k"))
        assert again.status_code in (201, 202)
        assert number() == made, "nothing was made a second time"
        assert api.post(path, body or {}, **once("k")).json() == again.json()


def _die(*arguments: Any, **named: Any) -> Any:
    raise Died


@ON_BOTH
def test_a_call_whose_key_was_taken_over_leaves_nothing_behind(
    api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control plane that was frozen goes on after another one has answered for it."""
    real, path = keys.create, "/v1/accounts/acme/keys"

    def freeze(connection: Any, *arguments: Any, **named: Any) -> Any:
        table = idempotency.table
        connection.execute(update(table).values(claim="another's"))
        return real(connection, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(keys, "create", freeze)
        answer = api.post(path, {}, **once("k"))
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_progress")
    assert api.get(path).json()["items"] == []
