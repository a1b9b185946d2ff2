"""Behind pgbouncer a session of the server serves many clients in turn: nothing that onelane does may depend on one.

The pools are as small as they can be (two connections for eight threads of each of two `Database`s), so that each
transaction meets whatever another client has left on its connection.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from orchestrator.control.dispatch import Dispatcher
from orchestrator.control.jobs import Jobs
from tenants.database.postgres_sessions import STATEMENT_TIMEOUT_SECONDS
from tenants.database.transactions import Database
from tenants.migrations import migrate, pending
from tenants.store import workers
from tenants.store.attempt import OwnedAttempt
from tenants.store.job_store import job_store
from tenants.store.jobs import read as jobs
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.web.sample_pipelines import PIPELINES
from tests.support.pgbouncer import pgbouncer_or_skip, running_pgbouncer
from tests.tenants.store.shared_batch import run_statement

pytestmark = pytest.mark.integration

ROUNDS = 6
THREADS = 8


class NoRedis(Dispatcher):
    def __init__(self) -> None:
        pass

    def send(self, steps: Any) -> bool:
        return False


@pytest.fixture(scope="module", params=["transaction", "transaction-ignoring", "session"])
def bouncer(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a migrated database behind pgbouncer."""
    pgbouncer_or_skip()
    server: str = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("postgres_template")
    name = f"bounced_{request.param.replace('-', '_')}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    mode, _, ignoring = request.param.partition("-")
    # In session mode a client keeps a connection for as long as it lives: only few clients fit then.
    with running_pgbouncer(server, name, mode=mode, ignored="options,extra_float_digits" if ignoring else "") as port:
        yield f"postgresql://postgres@127.0.0.1:{port}/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def clients(bouncer: str) -> Iterator[list[Database]]:
    """Two processes' databases; in session mode with one connection each."""
    size = 1 if "session" in bouncer else THREADS
    opened = [Database(bouncer, pool_size=size) for _ in range(2)]
    yield opened
    for each in opened:
        each.close()


def test_jobs_are_made_run_and_found_by_many_clients_at_once(clients: list[Database]) -> None:
    def one(numbered: tuple[int, Database]) -> str:
        number, database = numbered
        account, worker = f"account-{number}", f"w{number}"
        workers.register_surely(database, id=worker, host="here", pid=number + 1, lanes=["generate"], threads=1)
        maker = Jobs(database, {each.name: each for each in PIPELINES}, NoRedis())
        for turn in range(ROUNDS):
            job, created = maker.create(account, JobPlan("sample", {"topic": f"topic {turn}"}))
            assert created
            found = database.read(lambda c, job=job: jobs.fetch(c, job["id"], account))  # type: ignore[misc]
            assert found["input"]["topic"] == f"topic {turn}"
            first = database.read(lambda c, job=job: jobs.fetch_steps(c, job["id"]))[0]  # type: ignore[misc]
            owned = job_store(database).start(first["id"], worker_id=worker, slot=0)
            assert isinstance(owned, OwnedAttempt), owned
            job_store(database).complete(owned, {"done": turn})
            assert database.write(lambda c: workers.renew(c, worker, 0))
            done = database.read(lambda c, job=job: jobs.fetch_steps(c, job["id"]))[0]  # type: ignore[misc]
            assert (done["status"], done["output"]) == ("completed", {"done": turn})
        return account

    numbered = list(enumerate(itertools.islice(itertools.cycle(clients), 2 * THREADS)))
    with ThreadPoolExecutor(2 * THREADS) as pool:
        assert len(set(pool.map(one, numbered))) == 2 * THREADS


def test_no_session_keeps_a_statement(clients: list[Database]) -> None:
    for database, turn in itertools.product(clients, range(5)):
        database.write(lambda c: c.execute(text("SELECT 'one of many'")).scalar_one())
        run_statement(database, "SELECT to_json(%(a)s::int)", a=str(turn))
    for database in clients:
        found = database.read(lambda c: c.execute(text("SELECT statement FROM pg_prepared_statements")).all())
        assert found == []


def test_each_transaction_has_our_settings_and_leaves_none(clients: list[Database], bouncer: str) -> None:
    shown = text("SELECT current_setting('statement_timeout'), current_setting('enable_seqscan')")
    ours = (f"{STATEMENT_TIMEOUT_SECONDS}s", "off")
    for database in clients:
        assert tuple(database.read(lambda c: c.execute(shown).one())) == ours
        assert tuple(database.write(lambda c: c.execute(shown).one())) == ours
        both = "SELECT json_build_array(current_setting('statement_timeout'), current_setting('jit'))"
        assert run_statement(database, both) == [ours[0], "off"]
    for database in clients:
        database.close()
    with psycopg.connect(bouncer) as other:
        assert other.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_the_schema_of_the_url_is_used(bouncer: str) -> None:
    """`options` cannot be given to the server's sessions; so each transaction sets what they hold."""
    server = Database(bouncer, pool_size=1)
    server.write(lambda c: c.execute(text("CREATE SCHEMA IF NOT EXISTS elsewhere")))
    server.close()
    database = Database(f"{bouncer}?options=-c%20search_path%3Delsewhere", pool_size=1)
    migrate(database)
    try:
        assert pending(database) == []
        found = "SELECT count(*) FROM pg_tables WHERE schemaname = 'elsewhere' AND tablename = 'jobs'"
        assert database.read(lambda c: c.execute(text(found)).scalar_one()) == 1
    finally:
        database.close()
