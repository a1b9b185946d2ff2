"""Alerts: what a person should hear of, and circuits, which pause a tenant queue that keeps failing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tenants.database.columns import UtcTime, big_serial, exact_text, json_document

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "circuits",
        sa.Column("account", exact_text(), nullable=False),
        sa.Column("lane", exact_text(64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opened_at", UtcTime(), nullable=True),
        sa.Column("until", UtcTime(), nullable=True),
        sa.Column("cooldown_seconds", sa.Float(), nullable=True),
        sa.Column("canary_step_id", sa.String(), nullable=True),
        sa.Column("canary_run_token", sa.Integer(), nullable=True),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", "lane", name=op.f("pk_circuits")),
    )
    op.create_index("ix_circuits_updated_at", "circuits", ["updated_at"])
    op.create_index(
        "ix_circuits_open",
        "circuits",
        ["lane", "account"],
        sqlite_where=sa.text("opened_at IS NOT NULL"),
        postgresql_where=sa.text("opened_at IS NOT NULL"),
    )
    op.create_table(
        "alerts",
        sa.Column("seq", big_serial(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("key", exact_text(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("account", exact_text(), nullable=True),
        sa.Column("details", json_document(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("occurrences", sa.Integer(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("telling", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("claim", sa.String(), nullable=True),
        sa.Column("undelivered", sa.String(), nullable=False),
        sa.Column("first_at", UtcTime(), nullable=False),
        sa.Column("last_at", UtcTime(), nullable=False),
        sa.Column("due_at", UtcTime(), nullable=True),
        sa.Column("rest_until", UtcTime(), nullable=True),
        sa.Column("sent_at", UtcTime(), nullable=True),
        sa.Column("given_up_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_alerts")),
        sa.UniqueConstraint("id", name=op.f("uq_alerts_id")),
        sa.UniqueConstraint("key", name=op.f("uq_alerts_key")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alerts_account", "alerts", ["account"])
    op.create_index("ix_alerts_last_at", "alerts", ["last_at"])
    op.create_index(
        "ix_alerts_due_at",
        "alerts",
        ["due_at"],
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "alert_hours",
        sa.Column("hour", sa.String(), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("hour", name=op.f("pk_alert_hours")),
    )


def downgrade() -> None:
    op.drop_table("alert_hours")
    op.drop_table("alerts")
    op.drop_table("circuits")
