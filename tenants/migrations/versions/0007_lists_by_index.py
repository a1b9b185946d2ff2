"""Every filter of every list by an index, also at a million jobs.

`job_tags` repeats the tags of `jobs` in a form that both databases can look up by tag, or by its beginning. A trigger
fills it, so that no way of making a job can forget it, and jobs without tags cost nothing. (On SQLite a later migration
that rebuilds `jobs` must make the trigger again: `tests/tenants/store/test_lists.py` looks for it.)
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tenants.database.columns import exact_text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OPEN = sa.text("resolution IS NULL")
_KEYED = sa.text("unique_key IS NOT NULL")

_ON_SQLITE = """
CREATE TRIGGER job_tags_of_new_job AFTER INSERT ON jobs WHEN new.tags <> '[]'
BEGIN
    INSERT OR IGNORE INTO job_tags (job_seq, tag) SELECT new.seq, value FROM json_each(new.tags);
END
"""
_ON_POSTGRESQL = (
    """
    CREATE FUNCTION job_tags_of_new_job() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO job_tags (job_seq, tag)
        SELECT NEW.seq, value FROM jsonb_array_elements_text(NEW.tags) AS each(value)
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER job_tags_of_new_job AFTER INSERT ON jobs FOR EACH ROW
    WHEN (NEW.tags <> '[]'::jsonb AND jsonb_typeof(NEW.tags) = 'array') EXECUTE FUNCTION job_tags_of_new_job()
    """,
)


def upgrade() -> None:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "job_tags",
        sa.Column("job_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tag", exact_text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], ondelete="CASCADE", name=op.f("fk_job_tags_job_seq_jobs")),
        sa.PrimaryKeyConstraint("job_seq", "tag", name=op.f("pk_job_tags")),
    )
    each = "jsonb_array_elements_text(jobs.tags) AS each(value)" if on_postgresql else "json_each(jobs.tags)"
    fit = " WHERE jsonb_typeof(jobs.tags) = 'array'" if on_postgresql else ""
    op.execute(f"INSERT INTO job_tags (job_seq, tag) SELECT DISTINCT jobs.seq, value FROM jobs, {each}{fit}")  # noqa: S608
    op.create_index("ix_job_tags_tag", "job_tags", ["tag", "job_seq"])
    for statement in _ON_POSTGRESQL if on_postgresql else (_ON_SQLITE,):
        op.execute(statement)
    op.create_index("ix_jobs_unique_key", "jobs", ["unique_key", "seq"], sqlite_where=_KEYED, postgresql_where=_KEYED)
    for column in ("", "lane", "pipeline", "error_code"):
        op.create_index(
            f"ix_dead_letters_open{'_' if column else ''}{column}",
            "dead_letters",
            [column, "seq"] if column else ["seq"],
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        )
    op.create_index("ix_accounts_status", "accounts", ["status", "id"])
    for column in ("actor", "action", "target"):
        op.create_index(f"ix_audit_{column}_seq", "audit", [column, "seq"])


def downgrade() -> None:
    for column in ("actor", "action", "target"):
        op.drop_index(f"ix_audit_{column}_seq", table_name="audit")
    op.drop_index("ix_accounts_status", table_name="accounts")
    for column in ("", "_lane", "_pipeline", "_error_code"):
        op.drop_index(f"ix_dead_letters_open{column}", table_name="dead_letters")
    op.drop_index("ix_jobs_unique_key", table_name="jobs")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER job_tags_of_new_job ON jobs")
        op.execute("DROP FUNCTION job_tags_of_new_job()")
    else:
        op.execute("DROP TRIGGER job_tags_of_new_job")
    op.drop_table("job_tags")
