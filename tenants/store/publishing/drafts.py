"""Drafts as their account reads and edits them; `publications` has the writes of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, select, update

from ...database.columns import db_now
from ...database.models import Draft, Job, Publication
from ...errors import DraftNotPending, StaleVersion
from ..dispatch import Dispatch
from ..jobs import approval as approvals
from ..listings import Page, fetch_one, narrow, read_page

drafts, publications, jobs = Draft.__table__, Publication.__table__, Job.__table__

_PUBLICATION = ("id", "publisher", "status", "url", "external_id", "published_at")


def _selected(owner: str | None) -> Select[Any]:
    """Drafts with their ledger entry; `owner` None stands for an admin."""
    entry = [publications.c[name].label(f"publication_{name}") for name in _PUBLICATION]
    statement = select(drafts, *entry).join(publications, publications.c.draft_id == drafts.c.id, isouter=True)
    return narrow(statement, (drafts.c.account, owner))


def publication_of(row: RowMapping) -> dict[str, Any] | None:
    """The ledger entry in a row of `page` or `fetch`."""
    if row["publication_id"] is None:
        return None
    return {name: row[f"publication_{name}"] for name in _PUBLICATION}


def page(connection: Connection, *, account: str | None, status: str | None, limit: int, cursor: str | None) -> Page:
    """Drafts, newest first; `account` None: of all accounts."""
    statement = narrow(_selected(account), (drafts.c.status, status))
    return read_page(connection, statement, drafts.c.seq, limit=limit, cursor=cursor)


def fetch(connection: Connection, draft_id: str, account: str | None) -> RowMapping:
    """One draft, whole. `account` None stands for an admin.

    Raises:
        NotFound: no such draft, or not this account's.
    """
    return fetch_one(connection, _selected(account).where(drafts.c.id == draft_id), f"there is no draft {draft_id!r}")


def change(
    connection: Connection, draft_id: str, account: str | None, *, version: int | None, changes: Mapping[str, Any]
) -> tuple[RowMapping, list[Dispatch]]:
    """Change a pending draft if it is at `version` (None: at any).

    An approval does not cover the new text: a last step that waits to publish awaits approval again. Returns the draft,
    and the messages to withdraw from Redis.

    Raises:
        NotFound: no such draft, or not this account's.
        DraftNotPending: it is being published, was published or was discarded.
        StaleVersion: it was changed meanwhile.
    """
    job_id = fetch(connection, draft_id, account)["job_id"]
    job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).mappings().one_or_none()
    pending = [drafts.c.id == draft_id, drafts.c.status == "pending_publish"]
    if version is not None:
        pending.append(drafts.c.version == version)
    statement = update(drafts).where(*pending)
    changed = connection.execute(
        statement.values(
            **changes,
            version=drafts.c.version + 1,
            content_version=drafts.c.content_version + 1,
            updated_at=db_now(),
        )
    ).rowcount
    found = fetch(connection, draft_id, account)
    if not changed:
        if found["status"] != "pending_publish":
            raise DraftNotPending(f"draft {draft_id} is {found['status']}; only one that is pending can be changed")
        raise StaleVersion(f"draft {draft_id} is at version {found['version']} now, not {version}; read it again")
    return found, [] if job is None else approvals.draft_was_edited(connection, job)
