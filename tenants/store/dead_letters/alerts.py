"""Alerts for people: written by the transaction that causes them, sent as messages by the alert loop.

Alerts of the same kind, account and subject share one row, which counts them. A message has the latest and the count.
After a message the row is silent for a time (`rest_until`); alerts of that time are counted and sent after it.

Invariants
- One process at a time sends a message: it claims the rows by a guarded update that postpones `due_at`, by the
  database's clock. If it dies, the message is sent again later: at least once.
- Only ids, names and codes are stored. Error messages stay in the dead letter: they may contain anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, delete, func, select, update

from ...database.columns import db_now, seconds_since, upsert
from ...database.models import Alert, AlertHour, new_id
from ..attempt import OwnedAttempt
from ..listings import Page, narrow, read_page

alerts, hours = Alert.__table__, AlertHour.__table__

Kind = Literal["dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"]

#: Seconds after which a claimed message that was not settled may be claimed again.
CLAIM_SECONDS = 120.0
#: Tries before a message is given up; with the delays between them, about an hour and a half.
MAX_TRIES = 10
#: The most alerts in one message, when the hourly cap allows no message for each.
MOST_TOGETHER = 5000
#: Two alerts of one kind and job within so many seconds are the same event, written in two places.
_SAME_SECONDS = 60.0

_LEAST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 10.0, 1800.0
#: A provider and a short hash of its credential.
_SCOPE = re.compile(r"[a-z0-9_.-]{1,40}:[a-z0-9_.-]{1,40}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Message:
    """A claimed message: one alert, or several together."""

    claim: str
    rows: Sequence[RowMapping]
    #: Positions of the channels that have not accepted it; None: all.
    channels: frozenset[int] | None
    #: Messages that may still be sent in this hour, and the hour.
    left: int
    hour: str


def raise_alert(
    connection: Connection,
    kind: Kind,
    *,
    account: str | None,
    subject: Sequence[str],
    details: Mapping[str, Any],
    once_per_job: bool = False,
) -> None:
    """Insert an alert, or count one more where its row exists.

    `subject` identifies the row within kind and account. `details` are ids, names and codes, `job_id` among them. With
    `once_per_job` a second alert of that job within a minute is not counted.
    """
    job_id = details.get("job_id")
    key = json.dumps([kind, account, *subject], ensure_ascii=False)
    statement = upsert(connection, alerts).values(
        id=new_id(),
        key=key,
        kind=kind,
        account=account,
        details=dict(details),
        job_id=job_id,
        occurrences=1,
        told=0,
        telling=0,
        tries=0,
        undelivered="",
        first_at=db_now(),
        last_at=db_now(),
        due_at=db_now(),
    )
    counted: dict[str, Any] = {
        "occurrences": alerts.c.occurrences + 1,
        "due_at": func.coalesce(
            alerts.c.due_at, case((alerts.c.rest_until > db_now(), alerts.c.rest_until), else_=db_now())
        ),
    }
    counted |= {name: statement.excluded[name] for name in ("details", "job_id", "last_at")}
    if once_per_job and job_id is not None:
        seen = and_(alerts.c.job_id == job_id, alerts.c.last_at > db_now(-_SAME_SECONDS))
        counted = {name: case((seen, alerts.c[name]), else_=value) for name, value in counted.items()}
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=counted))


def dead_letter(connection: Connection, letter: Mapping[str, Any], *, step: str | None) -> None:
    """Raise the alert for a new dead letter: its own kind, or that of a missing session or an unknown outcome."""
    code = plain_code(letter["error_code"])
    details = {
        "lane": letter["lane"],
        "pipeline": letter.get("pipeline"),
        "step": step,
        "error_code": code,
        "job_id": letter.get("job_id"),
        "dead_letter_id": letter["id"],
    }
    account = letter["account"]
    match code:
        case "login_required":
            raise_alert(connection, "login_required", account=account, subject=(), details=details, once_per_job=True)
        case "outcome_unknown":
            raise_alert(connection, "needs_review", account=account, subject=(), details=details, once_per_job=True)
        case _:
            subject = (letter["lane"], letter.get("pipeline") or "", step or "", code)
            raise_alert(connection, "dead_letter", account=account, subject=subject, details=details)


def provider_refused(connection: Connection, owned: OwnedAttempt, *, scope: str) -> None:
    """Raise the alert for a credential that its provider refuses: one for all accounts, which share it."""
    shown = scope if _SCOPE.fullmatch(scope) else "other"
    details = {
        "provider": shown,
        "lane": owned.lane,
        "pipeline": owned.pipeline,
        "step": owned.name,
        "job_id": owned.job_id,
    }
    raise_alert(connection, "provider_refused", account=None, subject=(shown,), details=details)


def plain_code(code: str) -> str:
    """The error's code; "other" for one that is not a plain word, since a step may choose any text."""
    return code if _CODE.fullmatch(code) else "other"


# --- sending -------------------------------------------------------------------------------------------------------


def anything_due(connection: Connection) -> bool:
    """Whether any alert is due: a read, so that an idle run of the loop writes nothing."""
    return bool(connection.execute(select(select(1).where(_due()).exists())).scalar_one())


def claim(connection: Connection, *, per_hour: int) -> Message | None:
    """Claim due alerts for one message; None when none is due, or the hour's messages are used up.

    One alert a message, unless more are due than messages are left in this hour: then one message has them all.
    """
    heads = connection.execute(
        select(alerts.c.seq, alerts.c.undelivered)
        .where(_due())
        .order_by(alerts.c.due_at, alerts.c.seq)
        .limit(MOST_TOGETHER)
        .with_for_update(skip_locked=True)
    ).all()
    if not heads:
        return None
    hour = _hour(connection)
    left = _count_message(connection, hour, per_hour)
    if left is None:
        return None
    token, missing = new_id(), heads[0].undelivered
    together = len(heads) > left + 1
    chosen = [row.seq for row in heads if row.undelivered == missing] if together else [heads[0].seq]
    rows = (
        connection.execute(
            update(alerts)
            .where(alerts.c.seq.in_(chosen), _due())
            .values(
                claim=token,
                due_at=db_now(CLAIM_SECONDS),
                tries=alerts.c.tries + 1,
                # A retry has the same count as the message that other channels have accepted.
                telling=case((alerts.c.tries == 0, alerts.c.occurrences), else_=alerts.c.telling),
            )
            .returning(alerts)
        )
        .mappings()
        .all()
    )
    channels = frozenset(int(each) for each in missing.split(",")) if missing else None
    return Message(token, rows, channels, left, hour)


def settle(connection: Connection, message: Message, *, every: float, taken: int, refused: Sequence[int]) -> int:
    """Record which channels accepted the message; returns how many of its alerts are given up.

    Args:
        connection: of a transaction.
        message: as it was claimed; rows that another process has claimed since are left alone.
        every: seconds of silence that follow.
        taken: how many channels accepted it.
        refused: positions of those that did not, and are retried.
    """
    mine = alerts.c.claim == message.claim
    if not taken:
        connection.execute(
            update(hours).where(hours.c.hour == message.hour, hours.c.sent > 0).values(sent=hours.c.sent - 1)
        )
    sent: dict[str, Any] = {"sent_at": db_now()} if taken else {}
    done: dict[str, Any] = {
        "claim": None,
        "told": alerts.c.telling,
        "tries": 0,
        "undelivered": "",
        "rest_until": db_now(every),
        "due_at": case((alerts.c.occurrences > alerts.c.telling, db_now(every)), else_=None),
    }
    if not refused:
        connection.execute(update(alerts).where(mine).values(**done, **sent, given_up_at=None))
        return 0
    last = connection.execute(
        update(alerts).where(mine, alerts.c.tries >= MAX_TRIES).values(**done, **sent, given_up_at=db_now())
    )
    tries = max(row["tries"] for row in message.rows)
    delay = min(_LONGEST_DELAY_SECONDS, _LEAST_DELAY_SECONDS * 2 ** (tries - 1))
    missing = ",".join(map(str, refused))
    connection.execute(update(alerts).where(mine).values(claim=None, undelivered=missing, due_at=db_now(delay), **sent))
    return last.rowcount


def _due() -> ColumnElement[bool]:
    return alerts.c.due_at <= db_now()


def _hour(connection: Connection) -> str:
    now: datetime = connection.execute(select(db_now())).scalar_one()
    return now.strftime("%Y-%m-%dT%H")


def _count_message(connection: Connection, hour: str, per_hour: int) -> int | None:
    """Count one of the hour's messages; returns how many are left, None when none was."""
    statement = (
        upsert(connection, hours)
        .values(hour=hour, sent=1)
        .on_conflict_do_update(index_elements=["hour"], set_={"sent": hours.c.sent + 1}, where=hours.c.sent < per_hour)
    )
    sent = connection.execute(statement.returning(hours.c.sent)).scalar_one_or_none()
    return None if sent is None else per_hour - sent


# --- reading -------------------------------------------------------------------------------------------------------


def page(connection: Connection, *, account: str | None, kind: str | None, limit: int, cursor: str | None) -> Page:
    """Alerts, newest first by their first occurrence."""
    statement = narrow(select(alerts), (alerts.c.account, account), (alerts.c.kind, kind))
    return read_page(connection, statement, alerts.c.seq, limit=limit, cursor=cursor)


def overdue(connection: Connection) -> float:
    """How late the longest waiting alert is that no message was tried for, in seconds; 0.0 when none is."""
    statement = select(func.max(seconds_since(alerts.c.due_at))).where(_due(), alerts.c.tries == 0)
    longest = connection.execute(statement).scalar_one()
    return max(0.0, float(longest or 0.0))


def forget(connection: Connection, *, older_than: float) -> None:
    """Remove alerts whose last occurrence is older, and past hours."""
    connection.execute(delete(alerts).where(alerts.c.last_at < db_now(-older_than)))
    connection.execute(delete(hours).where(hours.c.hour < _hour(connection)))
