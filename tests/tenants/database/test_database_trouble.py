"""A database in trouble: what is tried again, what is refused, and that nothing half-written stays."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, func, select, text

from tenants.database import postgres_sessions, sqlite_writer_lock
from tenants.database.engine import TCP_SECONDS
from tenants.database.models import Event, Job, Step, Worker
from tenants.database.transactions import MAX_TRIES, CommitUnknown, Database
from tenants.errors import Unavailable
from tenants.migrations import ADVISORY_LOCK as ADVISORY_LOCK
from tenants.migrations import migrate, pending
from tenants.store import meta, workers
from tenants.store.jobs import create as create_jobs
from tenants.store.jobs import read as jobs
from tenants.store.jobs.create import JobPlan, StepPlan
from tests import ROOT
from tests.crashes.postgres import Postgres, running_postgres
from tests.tenants.store.shared_batch import run_statement

#: They start a PostgreSQL of their own, which no fixture of the shared servers reports.
pytestmark = pytest.mark.integration

STEPS = (StepPlan("generate", "generate", True, 3), StepPlan("publish", "publish", True, 3))


def plan(**more: Any) -> JobPlan:
    return JobPlan(pipeline="blog", input={"text": "x" * 2000}, steps=STEPS, **more)


def count(database: Database, table: Any) -> int:
    return int(database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one()))


class Proxy:
    """The chaos run's proxy before one server."""

    def __init__(self, target: int) -> None:
        command = [sys.executable, "-m", "tests.chaos.proxy", json.dumps({"sql": target})]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(json.loads(self._process.stdout.readline())["sql"])
        self._turn = threading.Lock()

    def do(self, what: str) -> None:
        """Returns when it is done: what is sent from then on meets it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps({"route": "sql", "do": what, "tell": True}).encode() + b"\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == b"done\n"

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as server:
        database = Database(server.url)
        migrate(database)
        database.close()
        yield server


@pytest.fixture
def proxy(server: Postgres) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


@pytest.fixture
def postgres(server: Postgres) -> Iterator[Database]:
    opened = Database(server.url)
    yield opened
    opened.close()


@pytest.fixture
def through(server: Postgres, proxy: Proxy) -> Iterator[Database]:
    """The same database by way of the proxy."""
    opened = Database(server.at(proxy.port))
    yield opened
    opened.close()


# --- asked to try again --------------------------------------------------------------------------------------------


def test_two_that_deadlock_both_succeed(postgres: Database) -> None:
    for key in ("one", "two"):
        postgres.write(lambda c, key=key: meta.put(c, key, "0"))  # type: ignore[misc]
    both_hold_one = threading.Barrier(2, timeout=60)
    runs: list[str] = []

    def work(first: str, second: str) -> Callable[[Connection], None]:
        def inner(connection: Connection) -> None:
            runs.append(first)
            meta.put(connection, first, first)
            if runs.count(first) == 1:
                both_hold_one.wait()
            meta.put(connection, second, first)

        return inner

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(postgres.write, (work("one", "two"), work("two", "one"))))
    assert len(runs) > 2, "nobody was chosen as the victim"
    kept = postgres.read(lambda c: meta.get_many(c, "one", "two"))
    assert kept in ({"one": "one", "two": "one"}, {"one": "two", "two": "two"})


@pytest.mark.parametrize("failures", [2, MAX_TRIES])
def test_serialization_failures_are_tried_again_a_bounded_number_of_times(postgres: Database, failures: int) -> None:
    runs = 0

    def work(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        meta.put(connection, "serialization", str(runs))
        if runs <= failures:
            connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))
        return runs

    if failures < MAX_TRIES:
        assert postgres.write(work) == failures + 1
        return
    with pytest.raises(Unavailable):
        postgres.write(work)
    assert runs == MAX_TRIES
    assert postgres.read(lambda c: meta.get_many(c, "serialization")) != {"serialization": str(MAX_TRIES)}


@pytest.mark.parametrize("state", ["53100", "53200", "57014", "58030", "XX001"])
def test_a_database_that_cannot_write_is_reported_at_once_and_keeps_nothing(postgres: Database, state: str) -> None:
    """Disk full, out of memory, over the statement's time, an I/O error, a damaged page: another try is no better."""
    runs = 0

    def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        create_jobs.create(connection, "acme", [plan(), plan()])
        connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))

    before = count(postgres, Job.__table__), count(postgres, Step.__table__), count(postgres, Event.__table__)
    with pytest.raises(Unavailable) as reported:
        postgres.write(work)
    assert not isinstance(reported.value, CommitUnknown)
    assert runs == 1
    assert before == (
        count(postgres, Job.__table__),
        count(postgres, Step.__table__),
        count(postgres, Event.__table__),
    )


@pytest.mark.parametrize("in_batch", [False, True])
def test_connections_to_a_former_primary_are_left(postgres: Database, in_batch: bool) -> None:
    """After a failover the old primary may live on, read-only, with all its connections."""
    with postgres.engine.connect() as pooled:
        pooled.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        pooled.commit()
    if in_batch:
        statement = "INSERT INTO meta (key, value) VALUES (%(name)s, 'x') RETURNING to_json(value)"
        assert run_statement(postgres, statement, name="after the failover") == "x"
    else:
        postgres.write(lambda c: meta.put(c, "after the failover, too", "x"))


# --- connections that break ----------------------------------------------------------------------------------------


def kill_backends(server: Postgres) -> None:
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


def test_backends_killed_while_idle_are_noticed_by_nobody(server: Postgres, postgres: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: postgres.ping(), range(8)))
    kill_backends(server)
    postgres.write(lambda c: meta.put(c, "idle", "written"))
    kill_backends(server)
    assert postgres.read(lambda c: meta.get_many(c, "idle")) == {"idle": "written"}


def test_a_backend_killed_in_the_middle_leaves_nothing_half_written(server: Postgres, postgres: Database) -> None:
    runs = 0

    def work(connection: Connection) -> create_jobs.Created:
        nonlocal runs
        runs += 1
        made = create_jobs.create(connection, "acme", [plan(), plan()])
        if runs == 1:
            kill_backends(server)
        jobs.fetch(connection, made.ids[0], None)
        return made

    before = count(postgres, Job.__table__)
    postgres.write(work)
    assert runs == 2
    assert count(postgres, Job.__table__) == before + 2
    assert count(postgres, Step.__table__) == 2 * (before + 2)


@pytest.mark.parametrize(("what", "takes_effect"), [("hold", False), ("deafen", True)])
def test_a_connection_lost_in_the_commit_leaves_the_outcome_open(
    postgres: Database, through: Database, proxy: Proxy, what: str, takes_effect: bool
) -> None:
    """The request to commit does not arrive, or its answer does not: the caller cannot know, and gets this error."""
    through.ping()

    def is_written() -> bool:
        return bool(postgres.read(lambda c: meta.get_many(c, what)))

    def work(connection: Connection) -> None:
        meta.put(connection, what, "written")
        break_commit(proxy, connection, what, is_written)

    with pytest.raises(CommitUnknown):
        through.write(work)
    assert is_written() == takes_effect
    through.ping()


@pytest.mark.parametrize("what", ["hold", "deafen"])
def test_a_worker_whose_registration_lost_its_answer_begins_all_the_same(
    postgres: Database, through: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    through.ping()
    name, register, struck = f"of {what}", workers.register, False

    def registered() -> int:
        query = select(func.count()).where(Worker.__table__.c.id == name)
        return int(postgres.read(lambda c: c.execute(query).scalar_one()))

    def break_the_first(connection: Connection, **values: Any) -> None:
        nonlocal struck
        register(connection, **values)
        if not struck:
            struck = True
            break_commit(proxy, connection, what, lambda: registered() == 1)

    monkeypatch.setattr(workers, "register", break_the_first)
    workers.register_surely(through, id=name, host="here", pid=1, lanes=["generate"], threads=1)
    assert struck
    assert registered() == 1


def break_commit(proxy: Proxy, connection: Connection, what: str, is_written: Callable[[], bool]) -> None:
    """Let the commit of this transaction meet a proxy that holds it, and then cuts the connection; soon it is repaired.

    Where only the answer is held back, the cut comes once the commit has taken effect.
    """
    engine = connection.engine
    driver: Any = connection.connection.driver_connection
    original = driver.commit
    patience = threading.Event()  # never set

    def cut_and_repair() -> None:
        patience.wait(0.3)
        ends_at = time.monotonic() + 60
        while what == "deafen" and not is_written() and time.monotonic() < ends_at:
            patience.wait(0.02)
        proxy.do("cut")
        patience.wait(0.2)
        proxy.do("heal")

    def commit() -> None:
        proxy.do(what)
        cutter = threading.Thread(target=cut_and_repair)
        cutter.start()
        try:
            original()
        finally:
            cutter.join()

    assert isinstance(engine, Engine)
    driver.commit = commit


@pytest.mark.parametrize("what", ["hold", "deafen"])
@pytest.mark.parametrize("unique_key", [None, "only one"])
def test_a_job_is_made_once_whatever_became_of_the_commit(
    through: Database, postgres: Database, proxy: Proxy, what: str, unique_key: str | None
) -> None:
    from orchestrator.control.dispatch import Dispatcher
    from orchestrator.control.jobs import Jobs
    from tenants.store.jobs.create import JobPlan
    from tests.orchestrator.web.sample_pipelines import PIPELINES

    class NoRedis(Dispatcher):
        def __init__(self) -> None:
            pass

        def send(self, steps: Any) -> bool:
            return False

    broken: list[str] = []

    @event.listens_for(through.engine, "commit")
    def _(connection: Connection) -> None:
        if broken:
            return
        broken.append(what)
        break_commit(proxy, connection, what, lambda: count(postgres, Job.__table__) > before)

    before = count(postgres, Job.__table__)
    maker = Jobs(through, {each.name: each for each in PIPELINES}, NoRedis())
    account = f"{what} {unique_key}"
    job, created = maker.create(account, JobPlan("sample", {"topic": "lanes"}, unique_key=unique_key))
    assert created
    assert broken
    assert count(postgres, Job.__table__) == before + 1
    assert postgres.read(lambda c: jobs.fetch(c, job["id"], account))["status"] == "queued"


def test_a_statement_has_its_time(postgres: Database) -> None:
    shown = postgres.read(lambda c: c.execute(text("SHOW statement_timeout")).scalar_one())
    assert shown == f"{postgres_sessions.STATEMENT_TIMEOUT_SECONDS}s"

    def work(connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
        connection.execute(text("SELECT pg_sleep(30)"))

    with pytest.raises(Unavailable, match="timeout"):
        postgres.write(work)


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no time-out of unacknowledged bytes"
)
def test_a_host_that_vanishes_in_the_middle_of_a_statement_is_given_up(postgres: Database) -> None:
    """Keepalives do not run while bytes wait for their acknowledgement; the kernel alone would wait for 15 minutes."""

    def look(connection: Connection) -> int:
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as shared:
            return shared.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert postgres.read(look) == 1000 * TCP_SECONDS


def test_a_database_that_is_gone_accepts_nothing(proxy: Proxy, through: Database, postgres: Database) -> None:
    before = count(postgres, Job.__table__)
    proxy.do("refuse")
    with pytest.raises(Unavailable) as reported:
        through.write(lambda c: create_jobs.create(c, "acme", [plan()]))
    with pytest.raises(Unavailable) as reported_of_one:
        run_statement(through, "SELECT to_json(1)")
    for each in (reported, reported_of_one):
        assert str(each.value).splitlines() == [str(each.value)], "a log takes more lines for more messages"
    proxy.do("heal")
    assert count(postgres, Job.__table__) == before
    through.write(lambda c: create_jobs.create(c, "acme", [plan()]))
    assert count(postgres, Job.__table__) == before + 1


# --- SQLite --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(sqlite_writer_lock, "BUSY_SECONDS", 1.0)
    opened = Database(sqlite_url)
    migrate(opened)
    yield opened
    opened.close()


def test_a_locked_file_is_waited_for_and_then_refused(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(str(sqlite.url.database), isolation_level=None, check_same_thread=False)
    with contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            sqlite.write(lambda c: create_jobs.create(c, "acme", [plan()]))
        # Readers are not held up, and find nothing.
        assert count(sqlite, Job.__table__) == 0
        release = threading.Timer(0.2, other.execute, ("ROLLBACK",))
        release.start()
        monkeypatch.setattr(sqlite_writer_lock, "BUSY_SECONDS", 60.0)
        patient = Database(f"sqlite:///{sqlite.url.database}")
        patient.write(lambda c: create_jobs.create(c, "acme", [plan()]))
        release.join()
        patient.close()
    assert count(sqlite, Job.__table__) == 1


def test_a_full_disk_refuses_and_leaves_nothing_half_written(sqlite: Database) -> None:
    pages = sqlite.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())

    def bound(most: int) -> None:
        # The bound is a connection's own, so every one of the pool gets it.
        sqlite.engine.dispose()
        event.listen(
            sqlite.engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {most}"), once=False
        )

    bound(pages + 30)
    made = 0
    refusal = ""
    while not refusal and made < 400:
        try:
            sqlite.write(lambda c: create_jobs.create(c, "acme", [plan(), plan()]))
            made += 2
        except Unavailable as error:
            refusal = str(error)
    assert made
    assert "full" in refusal
    assert count(sqlite, Job.__table__) == made
    assert count(sqlite, Step.__table__) == 2 * made
    assert count(sqlite, Event.__table__) == made
    bound(1_000_000)
    sqlite.write(lambda c: create_jobs.create(c, "acme", [plan()]))


# --- migrations ----------------------------------------------------------------------------------------------------


def test_a_new_database_that_others_open_too_is_waited_for(tmp_path: Path) -> None:
    """SQLite waits for writers, but not to switch to write-ahead logging beside a reader."""
    path = tmp_path / "new.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("CREATE TABLE other (id)")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM other").fetchall()
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            contextlib.closing(sqlite3.connect(path)) as hasty,
        ):
            hasty.execute("PRAGMA journal_mode=WAL")
        database = Database(f"sqlite:///{path}")
        migrating = pool.submit(migrate, database)
        with pytest.raises(TimeoutError):
            migrating.result(timeout=0.3)
        reader.execute("COMMIT")
        migrating.result(timeout=60)
    assert pending(database) == []
    database.close()


def test_many_may_migrate_at_once_and_while_jobs_are_made(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer_lock, "BUSY_SECONDS", 120.0)  # the last of them waits for all the others
    databases = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(migrate, databases))
        making = [
            pool.submit(each.write, lambda c: create_jobs.create(c, "acme", [plan()]))
            for each in databases
            for _ in range(3)
        ]
        list(pool.map(migrate, databases))
        for made in making:
            made.result()
    assert pending(databases[0]) == []
    assert count(databases[0], Job.__table__) == 12
    for each in databases:
        each.close()


def test_a_migration_takes_the_time_it_needs_and_waits_for_its_turn(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time-outs of ordinary statements would end one that fills a table, and whoever waits for it."""
    monkeypatch.setitem(postgres_sessions.SESSION_SETTINGS, "statement_timeout", "1s")
    database, holder = Database(postgres_url), Database(postgres_url)
    with ThreadPoolExecutor(1) as pool, holder.engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        migrating = pool.submit(migrate, database)
        waits = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        end = time.monotonic() + 60
        while not other.execute(waits).scalar_one():
            assert time.monotonic() < end, "nobody waits"
        with contextlib.suppress(TimeoutError):
            migrating.result(timeout=1.5)  # longer than a statement may take
        other.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        migrating.result(timeout=60)
    assert pending(database) == []
    shown = database.read(lambda c: c.execute(text("SHOW statement_timeout")).scalar_one())
    assert shown == "1s", "it is in force again"
    database.close()
    holder.close()
