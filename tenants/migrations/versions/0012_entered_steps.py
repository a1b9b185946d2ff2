"""Which run of an irreversible step has entered its function, and which workers record that."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("entered_token", sa.Integer(), nullable=True))
    op.add_column("workers", sa.Column("records_entry", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("workers", schema=None) as batch:
        batch.drop_column("records_entry")
    with op.batch_alter_table("steps", schema=None) as batch:
        batch.drop_column("entered_token")
