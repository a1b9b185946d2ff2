"""Webhooks: whose end a job tells, what the receiver answered, and with what an account's webhooks are signed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tenants.database.columns import UtcTime, exact_text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("ended_job_id", sa.String(), nullable=True))
    op.create_index(
        "ix_jobs_ended_job_id",
        "jobs",
        ["ended_job_id"],
        sqlite_where=sa.text("ended_job_id IS NOT NULL"),
        postgresql_where=sa.text("ended_job_id IS NOT NULL"),
    )
    op.add_column("attempts", sa.Column("status_code", sa.Integer(), nullable=True))
    op.create_table(
        "webhook_secrets",
        sa.Column("account", exact_text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until", UtcTime(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_webhook_secrets")),
    )


def downgrade() -> None:
    op.drop_table("webhook_secrets")
    op.drop_column("attempts", "status_code")
    op.drop_index("ix_jobs_ended_job_id", table_name="jobs")
    op.drop_column("jobs", "ended_job_id")
