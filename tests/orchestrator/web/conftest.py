"""The real application over a real database and a real Valkey, and a client that checks every answer it gets.

Steps are moved by the store's own functions, as a worker would: `bench` does that.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter
from sqlalchemy import Connection
from starlette.testclient import TestClient

from orchestrator.cli.app import run
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from orchestrator.web.app import ROUTES, create_app
from orchestrator.web.http.models import ProblemDocument
from orchestrator.web.http.paths import UndecodablePath, split_path
from orchestrator.web.http.problems import PROBLEMS
from orchestrator.web.http.routing import Route, RouteTable
from tenants.store import workers
from tenants.store.accounts import keys
from tenants.store.attempt import OwnedAttempt
from tenants.store.steps import finish as finish_steps
from tenants.store.steps import start as start_steps
from tests.orchestrator.web.commands import Command
from tests.orchestrator.web.serving import serving

ADMIN_KEY = "admin-key-for-the-web-tests-0001"
SECRET_KEY = "secret-key-for-the-web-tests-0001"
_TABLE = RouteTable(ROUTES)
_numbers = itertools.count(1)
#: Codes that any path can answer, also one that no route has.
_ANYWHERE = {"not_found", "method_not_allowed", "unauthenticated", "invalid_request"}


#: For tests whose outcome can differ between the databases; the others run on SQLite alone, which is quicker.
ON_BOTH = pytest.mark.parametrize("migrated_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated SQLite database, or what `ON_BOTH` asks for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "onelane.db")
        yield f"sqlite:///{tmp_path}/onelane.db"
        return
    server: str = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("postgres_template")
    name = f"web_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    base, _, query = server.partition("?")
    yield f"{base.rsplit('/', 1)[0]}/{name}?{query}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


class Api:
    """Calls the application with one key and holds each answer against what the route table promises."""

    def __init__(self, client: TestClient, key: str | None) -> None:
        self._client = client
        self.headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def with_key(self, key: str | None) -> Api:
        return Api(self._client, key)

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        headers = {**self.headers, **more.pop("headers", {})}
        if body is not None:
            more["content"] = json.dumps(body)
            headers = {"Content-Type": "application/json", **headers}
        answer = self._client.request(method, path, headers=headers, follow_redirects=False, **more)
        check_answer(method, path, answer)
        return answer

    def get(self, path: str, **more: Any) -> Any:
        return self("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self("POST", path, body, **more)

    def put(self, path: str, body: Any = None, **more: Any) -> Any:
        return self("PUT", path, body, **more)

    def patch(self, path: str, body: Any = None, **more: Any) -> Any:
        return self("PATCH", path, body, **more)

    def delete(self, path: str, **more: Any) -> Any:
        return self("DELETE", path, **more)


def route_of(method: str, path: str) -> Route | None:
    try:
        split = split_path(path.partition("?")[0].encode())
    except UndecodablePath:
        return None
    found = _TABLE.find(split) if split is not None else None
    return found[0].get("GET" if method == "HEAD" else method) if found is not None else None


def check_answer(method: str, path: str, answer: Any) -> None:
    """Status, body and headers are what the route table promises: the tests' half of "exactly what runs"."""
    assert answer.headers["x-request-id"], answer
    assert answer.headers["x-content-type-options"] == "nosniff"
    route = route_of(method, path)
    if answer.status_code >= 400 and (route is None or answer.status_code not in route.answers):
        problem = ProblemDocument.model_validate(answer.json()) if method != "HEAD" else None
        if problem is not None:
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem.status == answer.status_code == PROBLEMS[problem.code].status
            known = {"rate_limited", *_ANYWHERE} if route is None else {*route.error_codes(), *_ANYWHERE}
            assert problem.code in known, f"{method} {path} answered {problem.code}, which it does not promise"
        return
    if route is None or method == "HEAD":
        return
    assert answer.status_code in route.answers, f"{method} {path} answered {answer.status_code}: {answer.text}"
    model = route.answers[answer.status_code]
    if model is not None and isinstance(model, type) and issubclass(model, BaseModel):
        TypeAdapter(model).validate_json(answer.content, strict=False)


class Bench:
    """Moves steps as a worker does."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def write(self, work: Callable[[Connection], Any]) -> Any:
        return self.runtime.database.write(work)

    def register_worker(self, worker: str = "w1") -> None:
        self.write(lambda c: workers.register(c, id=worker, host="here", pid=7, lanes=["generate"], threads=4))

    def start(self, job: Mapping[str, Any], worker: str = "w1") -> OwnedAttempt:
        """Start the job's step that is queued."""
        step = next(each for each in job["steps"] if each["status"] in ("queued", "retrying"))
        if not any(row["id"] == worker for row in self.runtime.database.read(workers.live)):
            self.register_worker(worker)
        started = self.write(lambda c: start_steps.start(c, step["id"], worker_id=worker, slot=0))
        assert isinstance(started, OwnedAttempt), started
        return started

    def complete(self, owned: OwnedAttempt, output: dict[str, Any]) -> None:
        following = self.write(lambda c: finish_steps.complete(c, owned, output))
        if following is not None:
            self.runtime.dispatcher.send([following])

    def fail(self, owned: OwnedAttempt, code: str = "publish_failed") -> None:
        error = {"code": code, "message": "it did not work"}
        self.write(
            lambda c: finish_steps.fail(
                c, owned, outcome="failed", error=error, traceback="Traceback: …", message={"args": []}
            )
        )


@pytest.fixture
def settings_of(redis_url: str, tmp_path: Path) -> Callable[..., Settings]:
    def make(database_url: str, **more: Any) -> Settings:
        return Settings.load(
            **{
                "database_url": database_url,
                "redis_url": redis_url,
                "data_dir": tmp_path,
                "admin_key": SecretStr(ADMIN_KEY),
                "secret_key": SecretStr(SECRET_KEY),
                "pipelines": ("tests.orchestrator.web.sample_pipelines",),
                "allowed_hosts": ("127.0.0.1:9999",),
                "rate_limit_failures": "off",  # all tests come from one address, and many with wrong keys
                **more,
            }
        )

    return make


@pytest.fixture
def runtime(settings_of: Callable[..., Settings], migrated_url: str) -> Iterator[Runtime]:
    made = Runtime(settings_of(migrated_url))
    yield made
    made.close()


@pytest.fixture
def client(runtime: Runtime) -> Iterator[TestClient]:
    with TestClient(create_app(runtime), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def api(client: TestClient) -> Api:
    """The API with the admin key."""
    return Api(client, ADMIN_KEY)


@pytest.fixture
def bench(runtime: Runtime) -> Bench:
    return Bench(runtime)


@pytest.fixture
def make_key(runtime: Runtime) -> Callable[..., str]:
    """Makes a key for an account, without the API."""

    def make(account: str, **more: Any) -> str:
        key = keys.make_key()
        runtime.database.write(lambda c: keys.create(c, key, scope="account", account=account, **more))
        return key

    return make


JOB = {"pipeline": "sample", "input": {"topic": "lanes"}}


@pytest.fixture
def new_job(api: Api) -> Callable[..., dict[str, Any]]:
    """Makes a job by the API."""

    def make(account: str = "acme", **more: Any) -> dict[str, Any]:
        answer = api.post(f"/v1/accounts/{account}/jobs", {**JOB, **more})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    return make


@pytest.fixture
def address(runtime: Runtime) -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    with serving(runtime, listener):
        yield listener.getsockname()


@pytest.fixture
def command(
    address: tuple[str, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs a command with the admin key; gives back what it printed on standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONELANE_URL", "http://{}:{}".format(*address))
    monkeypatch.setenv("ONELANE_API_KEY", ADMIN_KEY)

    def call(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert run(list(arguments)) == status, capsys.readouterr().err
        return capsys.readouterr().out

    return call
