"""Alembic migrations: `migrate` and `pending`. A test proves that they give exactly the models' schema.

Alembic is imported only where there is something to migrate: nearly every start finds the newest revision.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

    from ..database.transactions import Database

#: Any fixed number of our own: several processes that migrate at once take turns by it.
ADVISORY_LOCK = 0x6F6E656C616E65


#: How long a migration waits for a table.
_LOCK_SECONDS = 10


def newest_revision() -> str:
    """The revision of this code's last migration, by the names of the files; they have no branches."""
    return max(_revisions())


def _revisions() -> set[str]:
    return {path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py")}


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def migrate(database: Database) -> None:
    """Bring the schema up to date. Safe to call from several processes at once.

    Raises:
        Unavailable: the database cannot be reached.
    """
    if database.dialect == "sqlite" and database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    with database.exclusive_engine() as engine:
        upgrade(engine)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate up to `revision` in one transaction, one process at a time.

    A statement of a migration may fill a new table from millions of rows, and a second process waits for the first: the
    time-outs of ordinary statements do not hold for either. That of a table's lock stays: behind a migration that waits
    for one, everybody who uses the table would wait too, so it fails after some seconds and is to be run again.
    """
    from . import announced

    announced.run(engine, lambda connection: _upgrade(connection, revision))


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        # Unlike everything else, it may have to go through whole tables.
        connection.execute(text("SET LOCAL enable_seqscan = on"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    config = _config()
    if _is_newer(_current(connection)):
        return
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def pending(database: Database) -> list[str]:
    """Revisions that this database lacks, oldest first; none where a newer release has migrated it further."""
    with database.exclusive_engine() as engine, engine.connect() as connection:
        current = _current(connection)
    if current == newest_revision() or _is_newer(current):
        return []
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    missing = []
    for each in script.walk_revisions():
        if each.revision == current:
            break
        missing.append(each.revision)
    return missing[::-1]


def _is_newer(current: str | None) -> bool:
    """Whether the schema is one of a newer release. Its migrations let this one go on; see `store.protocol`."""
    return current is not None and current not in _revisions()


def _current(connection: Connection) -> str | None:
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
