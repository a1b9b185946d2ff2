"""Alembic's entry: it runs on the connection that `tenants.migrations.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from tenants.database.models import Model


def run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=Model.metadata, render_as_batch=True)
    context.run_migrations()


run()
