"""Every table that has rows of accounts, for erasures and exports.

Invariant: each table with an `account` column is listed here or in `STAYS`. A test compares this with the models, so a
new table fails it until it is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select

from ...database.models import (
    Account,
    Alert,
    ApiKey,
    Artifact,
    Attempt,
    Circuit,
    DeadLetter,
    Draft,
    Event,
    Fire,
    IdempotencyKey,
    Job,
    Model,
    Publication,
    Schedule,
    Session,
    Step,
    TenantQueue,
    Usage,
    WebhookSecret,
)

#: Tables that name an account and are kept after its erasure, and why.
STAYS = {"erasures": "the proof of what was removed"}


@dataclass(frozen=True, slots=True)
class Holding:
    """A table with rows of accounts."""

    table: Table
    #: The name of a row in an export.
    kind: str
    #: Columns that an export leaves out: sealed values, hashes of keys, and internal ones.
    hidden: frozenset[str] = frozenset()

    @property
    def owner(self) -> ColumnElement[str]:
        """The column with the account's name."""
        return self.table.c.id if self.table.name == "accounts" else self.table.c.account


def _holding(model: type[Model], kind: str, *hidden: str) -> Holding:
    return Holding(model.__table__, kind, frozenset(hidden))


ACCOUNT = _holding(Account, "account")
JOBS = _holding(Job, "job", "seq")
#: Tables of jobs without an index by account, found by `job_id`; those that refer to others first.
OF_JOBS = (
    _holding(Attempt, "attempt"),
    _holding(Artifact, "artifact"),
    _holding(Step, "step"),
)
#: Tables of jobs with an index by account; some rows belong to no job.
BESIDE_JOBS = (
    _holding(Draft, "draft", "seq"),
    _holding(Publication, "publication"),
    _holding(DeadLetter, "dead_letter", "seq"),
    _holding(Event, "event"),
)
#: Other tables; fires before the schedules that they refer to.
SETTINGS = (
    _holding(ApiKey, "key", "hash"),
    _holding(TenantQueue, "queue_setting"),
    _holding(Session, "session", "storage_state", "credentials"),
    _holding(WebhookSecret, "webhook_secret", "secret", "previous"),
    _holding(Fire, "fire", "seq"),
    _holding(Schedule, "schedule", "seq"),
    _holding(Usage, "usage"),
    _holding(Circuit, "circuit"),
    _holding(Alert, "alert", "seq", "key", "claim", "telling", "undelivered"),
    _holding(IdempotencyKey, "idempotency_key", "scope", "body_hash", "response"),
)
ALL = (*SETTINGS, *OF_JOBS, *BESIDE_JOBS, JOBS, ACCOUNT)


def remove_jobs(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """Remove jobs with all rows that refer to them; returns how many of each table."""
    removed = {}
    for holding in (*OF_JOBS, *BESIDE_JOBS):
        table = holding.table
        removed[table.name] = connection.execute(delete(table).where(table.c.job_id.in_(ids))).rowcount
    jobs = JOBS.table
    removed[jobs.name] = connection.execute(delete(jobs).where(jobs.c.id.in_(ids))).rowcount
    return removed


def count(connection: Connection, holding: Holding, account: str) -> int:
    """How many rows of the account a table has; scans a table that has no index by account."""
    statement = select(func.count()).select_from(holding.table).where(holding.owner == account)
    return int(connection.execute(statement).scalar_one())
