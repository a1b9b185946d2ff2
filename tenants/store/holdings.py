"""All that is held of an account: every table with rows of it, and how these are found. Erasing and exporting go by it.

Invariant: a table with an account's name in it stands here or in `STAYS`; a test holds this against the models, so a
table that is added later fails it until somebody has decided.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, func, select

from ..models import (
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

#: Tables that name an account and outlive it, and why.
STAYS = {"erasures": "the proof of what was removed"}


@dataclass(frozen=True, slots=True)
class Holding:
    """A table with rows of accounts."""

    table: Table
    #: What one row is called in an export.
    kind: str
    #: Columns that an export leaves out: what is sealed, what opens a door, and what only this service can use.
    hidden: frozenset[str] = frozenset()

    @property
    def owner(self) -> ColumnElement[str]:
        """The column that says whose a row is."""
        return self.table.c.id if self.table.name == "accounts" else self.table.c.account


def _holding(model: type[Model], kind: str, *hidden: str) -> Holding:
    return Holding(model.__table__, kind, frozenset(hidden))


ACCOUNT = _holding(Account, "account")
JOBS = _holding(Job, "job", "seq")
#: Of a job, those that refer to others first. They have no index by account: their jobs lead to them.
OF_JOBS = (
    _holding(Attempt, "attempt"),
    _holding(Artifact, "artifact"),
    _holding(Step, "step"),
)
#: Of a job too, but some of theirs belong to none; each has an index by account.
BESIDE_JOBS = (
    _holding(Draft, "draft", "seq"),
    _holding(Publication, "publication"),
    _holding(DeadLetter, "dead_letter", "seq"),
    _holding(Event, "event"),
)
#: Fires before their schedules, which they refer to.
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


def count(connection: Connection, holding: Holding, account: str) -> int:
    """How many rows of the account a table has; it goes through all of a table that has no index by account."""
    return int(
        connection.execute(select(func.count()).select_from(holding.table).where(holding.owner == account)).scalar_one()
    )
