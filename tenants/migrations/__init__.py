"""Alembic migrations: `upgrade` and `pending`. A test proves that they give exactly the models' schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from . import announced

#: Any fixed number of our own: several processes that migrate at once take turns by it.
_ADVISORY_LOCK = 0x6F6E656C616E65


#: How long a migration waits for a table.
_LOCK_SECONDS = 10


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate up to `revision` in one transaction, one process at a time.

    A statement of a migration may fill a new table from millions of rows, and a second process waits for the first: the
    time-outs of ordinary statements do not hold for either. That of a table's lock stays: behind a migration that waits
    for one, everybody who uses the table would wait too, so it fails after some seconds and is to be run again.
    """
    announced.run(engine, lambda connection: _upgrade(connection, revision))


def _upgrade(connection: Connection, revision: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        # Unlike everything else, it may have to go through whole tables.
        connection.execute(text("SET LOCAL enable_seqscan = on"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def pending(engine: Engine) -> list[str]:
    """Revisions that this database lacks, oldest first."""
    with engine.connect() as connection:
        current = _current(connection)
    script = ScriptDirectory.from_config(_config())
    missing = []
    for each in script.walk_revisions():
        if each.revision == current:
            break
        missing.append(each.revision)
    return missing[::-1]


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
