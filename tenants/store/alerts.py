"""Alerts: what a person should hear of, written by the transaction that it tells of, and told once.

All that is alike (kind, account and subject) has one row, which counts. A message tells the latest and how many were
like it; after it the row rests, and what comes meanwhile is counted and told when the rest is over.

Invariants
- A message is under way for one claimer: the claim is a guarded update that puts `due_at` off, by the database's clock.
  Whoever claims and dies is late: the message goes out again, so an alert can come twice and never not at all.
- Only ids, names and codes are kept. What an error says stays with its dead letter: it may hold anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, case, delete, func, select, update

from ..columns import db_now, seconds_since, upsert
from ..models import Alert, AlertHour, new_id
from .attempt import OwnedAttempt
from .listings import Page, newest_first

alerts, hours = Alert.__table__, AlertHour.__table__

Kind = Literal["dead_letter", "login_required", "needs_review", "circuit_open", "circuit_closed", "provider_refused"]

#: Seconds after which a message whose sender was not heard of again is anybody's.
CLAIM_SECONDS = 120.0
#: Tries before a message is given up; with the delays between them, about an hour and a half.
MAX_TRIES = 10
#: Alerts that one message tells together, when the cap allows no message for each.
MOST_TOGETHER = 5000
#: Seconds in which the like of it from the same job is the same thing, seen from two places.
_SAME_SECONDS = 60.0

_LEAST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 10.0, 1800.0
#: A provider and a short hash of its credential.
_SCOPE = re.compile(r"[a-z0-9_.-]{1,40}:[a-z0-9_.-]{1,40}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Message:
    """What a claimer has to send: one alert, or several that one message tells together."""

    claim: str
    rows: Sequence[RowMapping]
    #: Positions of the channels that have not taken it; None: all.
    channels: frozenset[int] | None
    #: Messages that may still leave in this hour, and the hour.
    left: int
    hour: str


def note(
    connection: Connection,
    kind: Kind,
    *,
    account: str | None,
    subject: Sequence[str],
    details: Mapping[str, Any],
    once_per_job: bool = False,
) -> None:
    """Write an alert down, or count one more of the like.

    `subject` is what makes two of a kind alike within an account. `details` are ids, names and codes; its `job_id` is
    the job. With `once_per_job` the like of it from that job within a minute is not counted: two writes saw one thing.
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
    """A letter was left. One for want of a session, or of an unknown outcome, is told as that, and once."""
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
            note(connection, "login_required", account=account, subject=(), details=details, once_per_job=True)
        case "outcome_unknown":
            note(connection, "needs_review", account=account, subject=(), details=details, once_per_job=True)
        case _:
            subject = (letter["lane"], letter.get("pipeline") or "", step or "", code)
            note(connection, "dead_letter", account=account, subject=subject, details=details)


def provider_refused(connection: Connection, owned: OwnedAttempt, *, scope: str) -> None:
    """A provider refuses a credential. It is nobody's own fault, so it is one alert for all accounts."""
    shown = scope if _SCOPE.fullmatch(scope) else "other"
    details = {
        "provider": shown,
        "lane": owned.lane,
        "pipeline": owned.pipeline,
        "step": owned.name,
        "job_id": owned.job_id,
    }
    note(connection, "provider_refused", account=None, subject=(shown,), details=details)


def plain_code(code: str) -> str:
    """An error's code, which a step may choose: what is no plain word is not told, since it might be anything."""
    return code if _CODE.fullmatch(code) else "other"


# --- telling -------------------------------------------------------------------------------------------------------


def anything_due(connection: Connection) -> bool:
    """A look without a write, for most runs of the loop."""
    return bool(connection.execute(select(select(1).where(_due()).exists())).scalar_one())


def claim(connection: Connection, *, per_hour: int) -> Message | None:
    """Take what is due, for one message; None when nothing is, or no message may leave in this hour any more.

    Where more are due than messages may still leave, one message tells them together.
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
    left = _take_turn(connection, hour, per_hour)
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
                # A message that is tried again tells what it told the channels that have taken it.
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
    """Note who has taken the message; gives back how many of its alerts are given up.

    Args:
        connection: of a transaction.
        message: as it was claimed; what somebody else has claimed since is left alone.
        every: seconds that the like of it rests now.
        taken: how many channels took it.
        refused: positions of those that did not, and are tried again.
    """
    mine = alerts.c.claim == message.claim
    if not taken:
        connection.execute(
            update(hours).where(hours.c.hour == message.hour, hours.c.sent > 0).values(sent=hours.c.sent - 1)
        )
    sent: dict[str, Any] = {"sent_at": db_now()} if taken else {}
    told: dict[str, Any] = {
        "claim": None,
        "told": alerts.c.telling,
        "tries": 0,
        "undelivered": "",
        "rest_until": db_now(every),
        "due_at": case((alerts.c.occurrences > alerts.c.telling, db_now(every)), else_=None),
    }
    if not refused:
        connection.execute(update(alerts).where(mine).values(**told, **sent, given_up_at=None))
        return 0
    last = connection.execute(
        update(alerts).where(mine, alerts.c.tries >= MAX_TRIES).values(**told, **sent, given_up_at=db_now())
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


def _take_turn(connection: Connection, hour: str, per_hour: int) -> int | None:
    """One of the hour's messages; gives back how many are left after it, None when there was none left."""
    statement = (
        upsert(connection, hours)
        .values(hour=hour, sent=1)
        .on_conflict_do_update(index_elements=["hour"], set_={"sent": hours.c.sent + 1}, where=hours.c.sent < per_hour)
    )
    sent = connection.execute(statement.returning(hours.c.sent)).scalar_one_or_none()
    return None if sent is None else per_hour - sent


# --- looking -------------------------------------------------------------------------------------------------------


def page(connection: Connection, *, account: str | None, kind: str | None, limit: int, cursor: str | None) -> Page:
    """Alerts, those that first came up last first."""
    statement = select(alerts)
    if account is not None:
        statement = statement.where(alerts.c.account == account)
    if kind is not None:
        statement = statement.where(alerts.c.kind == kind)
    return newest_first(connection, statement, alerts.c.seq, limit=limit, cursor=cursor)


def overdue(connection: Connection) -> float:
    """Seconds by which the alert that waits longest for a first try of its message is late; 0.0 when none is."""
    statement = select(func.max(seconds_since(alerts.c.due_at))).where(_due(), alerts.c.tries == 0)
    longest = connection.execute(statement).scalar_one()
    return max(0.0, float(longest or 0.0))


def forget(connection: Connection, *, older_than: float) -> None:
    """Remove alerts that did not come up for so many seconds, and hours that are over."""
    connection.execute(delete(alerts).where(alerts.c.last_at < db_now(-older_than)))
    connection.execute(delete(hours).where(hours.c.hour < _hour(connection)))
