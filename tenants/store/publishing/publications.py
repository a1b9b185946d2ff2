"""Drafts as steps write them, and the publication ledger: intent → started → confirmed | unknown.

Every write is made by a running attempt that still owns its step (`attempt.still_owned`, in the same transaction), so a
worker that was given up for dead cannot start a publish: that is the fence just before the irreversible call.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update
from sqlalchemy.sql.dml import ReturningInsert

from ...database.columns import db_now, seconds_since
from ...database.models import Attempt, Draft, Publication, new_id
from ...errors import DraftChanged, NotFound, PublicationNotUnknown
from ..accounts import usage
from ..attempt import OwnedAttempt, still_owned
from ..jobs import approval as approvals
from ..jobs import unknown_outcomes
from ..listings import fetch_one

log = logging.getLogger(__name__)

drafts, publications, attempts = Draft.__table__, Publication.__table__, Attempt.__table__


def create_draft(
    connection: Connection, owned: OwnedAttempt, *, title: str, body: str, tags: Sequence[str]
) -> RowMapping:
    """Save the job's draft; a second call replaces one that is still `pending_publish`.

    The same text again keeps its approval.

    Raises:
        OwnershipLost: the attempt does not own its step.
        NotFound: the job's draft is published or being published.
    """
    still_owned(connection, owned)
    existing = load_draft(connection, owned, lock=True)
    if existing is None:
        statement: ReturningInsert[Any] = (
            insert(drafts)
            .values(
                id=new_id(),
                account=owned.account,
                job_id=owned.job_id,
                title=title,
                body=body,
                tags=list(tags),
                status="pending_publish",
                version=1,
                created_at=db_now(),
                updated_at=db_now(),
            )
            .returning(drafts)
        )
        return connection.execute(statement).mappings().one()
    is_new = (existing["title"], existing["body"], existing["tags"]) != (title, body, list(tags))
    replace = (
        update(drafts)
        .where(drafts.c.id == existing["id"], drafts.c.status == "pending_publish")
        .values(
            title=title,
            body=body,
            tags=list(tags),
            version=drafts.c.version + 1,
            content_version=drafts.c.content_version + int(is_new),
            updated_at=db_now(),
        )
    )
    changed = connection.execute(replace.returning(drafts)).mappings().one_or_none()
    if changed is None:
        raise NotFound(f"draft {existing['id']} of job {owned.job_id} is {existing['status']}; it cannot be replaced")
    return changed


def by_id(connection: Connection, publication_id: str, *, lock: bool = False) -> RowMapping:
    """One entry of the ledger.

    Raises:
        NotFound: there is none of that id.
    """
    statement = select(publications).where(publications.c.id == publication_id)
    missing = f"there is no publication {publication_id!r}"
    return fetch_one(connection, statement.with_for_update() if lock else statement, missing)


def load_draft_for_step(connection: Connection, owned: OwnedAttempt) -> RowMapping | None:
    """As `load_draft`; the last step of a job that needs an approval gets only an approved draft.

    Raises:
        DraftChanged: it was edited since its approval.
    """
    draft = load_draft(connection, owned)
    if draft is not None:
        _check_approval(connection, owned)
    return draft


def _check_approval(connection: Connection, owned: OwnedAttempt) -> None:
    if owned.needs_approval and approvals.is_missing(connection, owned.job_id):
        raise DraftChanged(f"the draft of job {owned.job_id} was edited after its approval; approve it as it is now")


def load_draft(connection: Connection, owned: OwnedAttempt, *, lock: bool = False) -> RowMapping | None:
    """The draft of the job."""
    statement = select(drafts).where(drafts.c.job_id == owned.job_id, drafts.c.account == owned.account)
    if lock:
        statement = statement.with_for_update()
    return connection.execute(statement).mappings().one_or_none()


def open_entry(connection: Connection, owned: OwnedAttempt, *, publisher: str, base_url: str) -> dict[str, Any]:
    """The draft's ledger entry, inserted with `intent` if there is none.

    `started_seconds_ago` counts from the last moment at which a request may have been sent: the write of `started`, or
    the end of an earlier attempt of this step if that was later, because its browser may have sent until then.

    Raises:
        OwnershipLost: the attempt does not own its step.
        NotFound: the job has no draft.
    """
    still_owned(connection, owned)
    draft = load_draft(connection, owned)
    if draft is None:
        raise NotFound(f"job {owned.job_id} has no draft to publish")
    entry: Mapping[Any, Any] | None = _entry(connection, draft["id"])
    if entry is None:
        connection.execute(
            insert(publications).values(
                id=new_id(),
                account=owned.account,
                draft_id=draft["id"],
                job_id=owned.job_id,
                publisher=publisher,
                base_url=base_url,
                # The last 64 bits of a UUIDv7 are random: unique, and short enough for a slug.
                marker="onelane-" + draft["id"].replace("-", "")[-16:],
                status="intent",
                created_at=db_now(),
                updated_at=db_now(),
            )
        )
        entry = _entry(connection, draft["id"])
        assert entry is not None, "the row was just inserted in this transaction"
    elif entry["status"] == "intent" and (entry["publisher"], entry["base_url"]) != (publisher, base_url):
        _move(connection, owned, ("intent",), status="intent", publisher=publisher, base_url=base_url)
        entry = {**entry, "publisher": publisher, "base_url": base_url}
    return {**entry, "started_seconds_ago": _since_last_request(connection, owned, entry)}


def _entry(connection: Connection, draft_id: str) -> RowMapping | None:
    statement = select(publications, seconds_since(publications.c.started_at).label("since_started")).where(
        publications.c.draft_id == draft_id
    )
    return connection.execute(statement).mappings().one_or_none()


def _since_last_request(connection: Connection, owned: OwnedAttempt, entry: Mapping[Any, Any]) -> float | None:
    if entry["since_started"] is None:
        return None
    since_end = connection.execute(
        select(func.min(seconds_since(attempts.c.finished_at))).where(
            attempts.c.step_id == owned.step_id,
            attempts.c.run_token < owned.run_token,
            attempts.c.finished_at >= entry["started_at"],
            # A snoozed attempt only waited for the target, and sent nothing.
            attempts.c.outcome != "snoozed",
        )
    ).scalar_one()
    since_ends = [entry["since_started"], since_end]
    return min(float(each) for each in since_ends if each is not None)


def started(connection: Connection, owned: OwnedAttempt, version: int) -> None:
    """Write `started` right before the irreversible request; only from `intent`, and only by the step's owner.

    `version`: of the draft that the attempt has loaded; a later edit must not be lost.

    Raises:
        OwnershipLost: the attempt does not own its step.
        NotFound: there is no entry with `intent`.
        DraftChanged: the draft was edited meanwhile, or its current text is not approved.
    """
    still_owned(connection, owned)
    _move(connection, owned, ("intent",), status="started", started_at=db_now())
    changed = connection.execute(
        update(drafts)
        .where(
            drafts.c.job_id == owned.job_id,
            # A retry finds the draft `publishing`, in which state it cannot be edited.
            drafts.c.status.in_(("pending_publish", "publishing", "needs_review")),
            drafts.c.version == version,
        )
        .values(status="publishing", version=drafts.c.version + 1, updated_at=db_now())
    ).rowcount
    if not changed:
        raise DraftChanged(f"the draft of job {owned.job_id} is no longer at version {version}; it is loaded again")
    _check_approval(connection, owned)


def absent(connection: Connection, owned: OwnedAttempt) -> None:
    """Set the entry back to `intent`: the target was checked after its settling time, and has no such post.

    Raises:
        OwnershipLost, NotFound: as `started`.
    """
    still_owned(connection, owned)
    _move(connection, owned, ("started", "unknown", "intent"), status="intent", started_at=None)


def confirmed(connection: Connection, owned: OwnedAttempt, *, url: str, external_id: str | None) -> None:
    """Confirm the entry: the post was read back, and is the draft.

    Raises:
        OwnershipLost, NotFound: as `started`.
    """
    still_owned(connection, owned)
    _move(
        connection,
        owned,
        ("intent", "started", "unknown"),
        status="confirmed",
        url=url,
        external_id=external_id,
        published_at=db_now(),
    )
    _mark_draft(connection, owned, "published")
    usage.add(connection, owned.account, posts=1)


def unknown(connection: Connection, owned: OwnedAttempt, reason: str) -> None:
    """Mark the entry as unknown, because the target cannot be checked: a person must do so.

    Raises:
        OwnershipLost, NotFound: as `started`.
    """
    still_owned(connection, owned)
    _move(connection, owned, ("started", "unknown"), status="unknown", note=reason)
    _mark_draft(connection, owned, "needs_review")
    entry = connection.execute(select(publications).where(publications.c.job_id == owned.job_id)).mappings().one()
    unknown_outcomes.alert(connection, entry)
    log.warning("job %s: the outcome of its publish is unknown; check it: %s", owned.job_id, reason)


def awaiting_review(connection: Connection) -> int:
    """How many drafts a person must check."""
    return int(connection.execute(select(func.count()).where(drafts.c.status == "needs_review")).scalar_one())


def settle_by_hand(
    connection: Connection, publication_id: str, *, url: str | None, external_id: str | None
) -> RowMapping:
    """Set the outcome that a person found: the post exists (`url`), or not (None). Returns the entry.

    The job's publish step then completes at once, or publishes again.

    Raises:
        NotFound: no such publication.
        PublicationNotUnknown: its outcome is known.
    """
    entry = by_id(connection, publication_id, lock=True)
    if entry["status"] != "unknown":
        raise PublicationNotUnknown(
            f"publication {publication_id} is {entry['status']}; only one whose outcome is unknown is settled by hand"
        )
    if url is not None:
        values = {"status": "confirmed", "url": url, "external_id": external_id, "published_at": db_now(), "note": None}
    else:
        values = {"status": "intent", "started_at": None, "note": None}
    connection.execute(
        update(publications).where(publications.c.id == publication_id).values(updated_at=db_now(), **values)
    )
    connection.execute(
        update(drafts)
        .where(drafts.c.id == entry["draft_id"])
        .values(
            status="published" if url is not None else "pending_publish",
            version=drafts.c.version + 1,
            updated_at=db_now(),
        )
    )
    if url is not None:
        usage.add(connection, entry["account"], posts=1)
    return by_id(connection, publication_id)


def _move(connection: Connection, owned: OwnedAttempt, allowed: tuple[str, ...], **values: Any) -> None:
    draft_id = select(drafts.c.id).where(drafts.c.job_id == owned.job_id).scalar_subquery()
    changed = connection.execute(
        update(publications)
        .where(
            publications.c.draft_id == draft_id,
            publications.c.account == owned.account,
            publications.c.status.in_(allowed),
        )
        .values(updated_at=db_now(), **values)
    ).rowcount
    if not changed:
        raise NotFound(
            f"job {owned.job_id} has no publication that is {' or '.join(allowed)}, so it cannot become "
            f"{values['status']}"
        )


def _mark_draft(connection: Connection, owned: OwnedAttempt, status: str) -> None:
    connection.execute(
        update(drafts)
        .where(drafts.c.job_id == owned.job_id, drafts.c.account == owned.account)
        .values(status=status, version=drafts.c.version + 1, updated_at=db_now())
    )
