"""Publishes that were started and of which nobody knows what became: a person must look, and is told.

Invariant: no job ends, whoever ends it, and leaves a publication `started`. Left so, it would be nobody's: no attempt
looks at the target any more, and only what is `unknown` can be settled by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, update

from ..columns import db_now
from ..models import Draft, Publication
from . import alerts

log = logging.getLogger(__name__)

drafts, publications = Draft.__table__, Publication.__table__


def mark_unknown(connection: Connection, job_ids: Sequence[str], reason: str) -> bool:
    """Jobs end: what is started of theirs becomes `unknown`, the drafts `needs_review`. False when nothing is."""
    entries = (
        connection.execute(
            update(publications)
            .where(publications.c.job_id.in_(job_ids), publications.c.status == "started")
            .values(status="unknown", note=reason[:500], updated_at=db_now())
            .returning(publications)
        )
        .mappings()
        .all()
    )
    if not entries:
        return False
    connection.execute(
        update(drafts)
        .where(drafts.c.id.in_([entry["draft_id"] for entry in entries]))
        .values(status="needs_review", version=drafts.c.version + 1, updated_at=db_now())
    )
    for entry in entries:
        log.warning(
            "job %s ends with a publish whose outcome is unknown, a person must look: %s", entry["job_id"], reason
        )
        alert(connection, entry)
    return True


def alert(connection: Connection, entry: RowMapping) -> None:
    """Tell people of an entry of the ledger that they must look at."""
    details = {"job_id": entry["job_id"], "draft_id": entry["draft_id"], "publication_id": entry["id"]}
    alerts.note(connection, "needs_review", account=entry["account"], subject=(), details=details, once_per_job=True)
