"""Publishes that were started and whose outcome is unknown: a person must check them, and gets an alert.

Invariant: no job ends with a publication that is `started`. No attempt would check its target, and only an `unknown`
one can be settled by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, update

from ...database.columns import db_now
from ...database.models import Draft, Publication
from ..dead_letters import alerts

log = logging.getLogger(__name__)

drafts, publications = Draft.__table__, Publication.__table__


def mark_unknown(connection: Connection, job_ids: Sequence[str], reason: str) -> bool:
    """Set the started publications of ended jobs to `unknown`, their drafts to `needs_review`; False without any."""
    started = update(publications).where(publications.c.job_id.in_(job_ids), publications.c.status == "started")
    marked = started.values(status="unknown", note=reason[:500], updated_at=db_now()).returning(publications)
    entries = connection.execute(marked).mappings().all()
    if not entries:
        return False
    connection.execute(
        update(drafts)
        .where(drafts.c.id.in_([entry["draft_id"] for entry in entries]))
        .values(status="needs_review", version=drafts.c.version + 1, updated_at=db_now())
    )
    for entry in entries:
        log.warning("job %s ended, the outcome of its publish is unknown; check it: %s", entry["job_id"], reason)
        alert(connection, entry)
    return True


def alert(connection: Connection, entry: RowMapping) -> None:
    """Raise the alert for a ledger entry that a person must check."""
    details = {"job_id": entry["job_id"], "draft_id": entry["draft_id"], "publication_id": entry["id"]}
    account = entry["account"]
    alerts.raise_alert(connection, "needs_review", account=account, subject=(), details=details, once_per_job=True)
