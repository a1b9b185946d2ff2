"""Migrations give exactly the models' schema, on both databases."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import delete, insert, inspect, select

from tenants.database.models import Job, JobTag, Model
from tenants.database.transactions import Database
from tenants.migrations import migrate, pending, upgrade


def test_migrations_give_the_models_schema(database_url: str) -> None:
    database = Database(database_url)
    assert pending(database)
    migrate(database)
    assert pending(database) == []
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Model.metadata) == []
        names = set(inspect(connection).get_table_names())
    assert names == {*Model.metadata.tables, "alembic_version"}
    database.close()


def test_migrating_twice_is_harmless(database_url: str) -> None:
    database = Database(database_url)
    migrate(database)
    migrate(database)
    database.close()


def test_a_running_slot_is_unique_in_the_migrated_schema(postgres_url: str) -> None:
    """Autogenerate does not compare the conditions of partial indexes, so this looks at the index itself."""
    database = Database(postgres_url)
    migrate(database)
    with database.engine.connect() as connection:
        definition = connection.exec_driver_sql(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'uq_steps_running_slot'"
        ).scalar_one()
    assert re.search(r"UNIQUE.*\(lane, account, slot\).*WHERE.*status.*'running'", definition)
    database.close()


def test_jobs_from_before_the_tags_had_a_table_are_found_by_them(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database.engine, "0006")
    now = datetime.now(UTC)
    same = {"account": "a", "pipeline": "p", "status": "completed", "input": {}, "run_at": now, "created_at": now}
    jobs, found = Job.__table__, JobTag.__table__
    tags = select(found.c.tag).order_by(found.c.tag)
    rows = [
        {**same, "id": f"job-{number}", "priority": 5, "approval": False, "tags": given}
        for number, given in enumerate([["spring", "spring", "b"], [], ["spring"]])
    ]
    with database.engine.begin() as connection:
        connection.execute(insert(jobs), rows)
    migrate(database)
    with database.engine.begin() as connection:
        assert connection.execute(tags).scalars().all() == ["b", "spring", "spring"]
        connection.execute(insert(jobs), [{**rows[0], "id": "job-3", "tags": ["new", "new"]}])
        connection.execute(delete(jobs).where(jobs.c.id == "job-2"))
        assert connection.execute(tags).scalars().all() == ["b", "new", "spring"]
    database.close()
