"""What was approved: the version of a draft's text. A job that was approved before this awaits approval once more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in batches: those rebuild the table on SQLite, and its trigger for tags would be gone.
    op.add_column("jobs", sa.Column("approved_version", sa.Integer(), nullable=True))
    op.add_column("drafts", sa.Column("content_version", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    op.drop_column("drafts", "content_version")
    op.drop_column("jobs", "approved_version")
