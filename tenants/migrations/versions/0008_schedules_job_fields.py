"""Schedules give their jobs a callback URL, a priority and tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tenants.database.columns import json_document

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("schedules", schema=None) as batch:
        batch.add_column(sa.Column("callback_url", sa.String(), nullable=True))
        batch.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="5"))
        batch.add_column(sa.Column("tags", json_document(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("schedules", schema=None) as batch:
        for name in ("tags", "priority", "callback_url"):
            batch.drop_column(name)
