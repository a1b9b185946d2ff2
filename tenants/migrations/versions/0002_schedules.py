"""Schedules and what became of their times."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tenants.database.columns import UtcTime, big_serial, exact_text, json_document

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("seq", big_serial(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", exact_text(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("input", json_document(), nullable=False),
        sa.Column("inputs", json_document(), nullable=True),
        sa.Column("inputs_total", sa.Integer(), nullable=True),
        sa.Column("inputs_taken", sa.Integer(), nullable=False),
        sa.Column("cron", sa.String(), nullable=True),
        sa.Column("every", sa.Float(), nullable=True),
        sa.Column("at", json_document(), nullable=True),
        sa.Column("spread", json_document(), nullable=True),
        sa.Column("timezone", sa.String(), nullable=False),
        sa.Column("jitter", sa.Float(), nullable=False),
        sa.Column("overlap", sa.String(), nullable=False),
        sa.Column("catch_up", sa.String(), nullable=False),
        sa.Column("starts_at", UtcTime(), nullable=False),
        sa.Column("ends_at", UtcTime(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_fire_at", UtcTime(), nullable=True),
        sa.Column("last_fire_at", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_schedules")),
        sa.UniqueConstraint("id", name=op.f("uq_schedules_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_schedules_account_seq", "schedules", ["account", "seq"])
    op.create_index(
        "ix_schedules_next_fire_at",
        "schedules",
        ["next_fire_at"],
        sqlite_where=sa.text("next_fire_at IS NOT NULL"),
        postgresql_where=sa.text("next_fire_at IS NOT NULL"),
    )
    op.create_table(
        "fires",
        sa.Column("seq", big_serial(), autoincrement=True, nullable=False),
        sa.Column("schedule_id", sa.String(), nullable=False),
        sa.Column("account", exact_text(), nullable=False),
        sa.Column("fire_at", UtcTime(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("error", json_document(), nullable=True),
        sa.Column("unfinished", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_fires_schedule_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_fires")),
        sa.UniqueConstraint("schedule_id", "fire_at", name=op.f("uq_fires_schedule_id_fire_at")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_fires_schedule_seq", "fires", ["schedule_id", "seq"])
    op.create_index(
        "ix_fires_unfinished",
        "fires",
        ["schedule_id"],
        sqlite_where=sa.text("unfinished"),
        postgresql_where=sa.text("unfinished"),
    )
    op.create_index(op.f("ix_fires_created_at"), "fires", ["created_at"])


def downgrade() -> None:
    op.drop_table("fires")
    op.drop_table("schedules")
