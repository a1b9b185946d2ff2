"""Erasures of accounts; and whose answers are kept for idempotency keys, so that these can be erased too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tenants.database.columns import UtcTime, exact_text, json_document

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", exact_text(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("forced", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("removed", json_document(), nullable=False),
        sa.Column("remaining", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasures")),
    )
    op.create_index(
        "uq_erasures_unfinished_account",
        "erasures",
        ["account"],
        unique=True,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.add_column("idempotency_keys", sa.Column("account", exact_text(), nullable=True))
    op.create_index("ix_idempotency_keys_account", "idempotency_keys", ["account"])


def downgrade() -> None:
    op.drop_index("ix_idempotency_keys_account", table_name="idempotency_keys")
    op.drop_column("idempotency_keys", "account")
    op.drop_table("erasures")
