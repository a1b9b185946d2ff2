"""Migrations give exactly the models' schema, on both databases."""

from __future__ import annotations

import re

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from tenants.database import Database
from tenants.models import Model


def test_migrations_give_the_models_schema(database_url: str) -> None:
    database = Database(database_url)
    assert database.pending_migrations()
    database.migrate()
    assert database.pending_migrations() == []
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Model.metadata) == []
        names = set(inspect(connection).get_table_names())
    assert names == {*Model.metadata.tables, "alembic_version"}
    database.close()


def test_migrating_twice_is_harmless(database_url: str) -> None:
    database = Database(database_url)
    database.migrate()
    database.migrate()
    database.close()


def test_a_running_slot_is_unique_in_the_migrated_schema(postgres_url: str) -> None:
    """Autogenerate does not compare the conditions of partial indexes, so this looks at the index itself."""
    database = Database(postgres_url)
    database.migrate()
    with database.engine.connect() as connection:
        definition = connection.exec_driver_sql(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'uq_steps_running_slot'"
        ).scalar_one()
    assert re.search(r"UNIQUE.*\(lane, account, slot\).*WHERE.*status.*'running'", definition)
    database.close()
