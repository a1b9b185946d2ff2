"""Undeliverable messages: each becomes a dead letter, and the step that waited for it fails.

The broker sets aside messages that no worker can run: that cannot be decoded, or whose actor no worker of the lane has.

Invariant: recording the same message again changes nothing, because the letter's id is derived from the message. So the
caller removes the message from Redis after this commit, and a crash in between neither loses nor doubles it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from ...database.columns import db_now
from ...database.models import DeadLetter, Step
from ...storable import fault_of, storable_text
from ..dead_letters import alerts
from ..dispatch import Dispatch
from ..jobs.read import FINISHED
from . import finish as finish_steps
from .start import attempt_of, load

letters, steps = DeadLetter.__table__, Step.__table__

#: The longest text of a message that is not a JSON object; the rest is cut off.
MAX_PAYLOAD_CHARACTERS = 16_000


@dataclass(frozen=True, slots=True)
class UndeliverableMessage:
    """An undeliverable message, as Redis has it."""

    lane: str
    account: str | None
    #: The message's id: a step's id, if the message is onelane's own.
    entry_id: str
    #: Unique in its lane.
    record_id: str
    set_aside_at: datetime
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of `record`."""

    #: The job whose step waited for the message; None when none did.
    job_id: str | None = None
    #: The step to dispatch, if the job continues after the failure of a best-effort step.
    following: Dispatch | None = None


def record(connection: Connection, dead: UndeliverableMessage) -> Recorded:
    """Insert the message's dead letter, and fail its waiting step permanently.

    A message that belongs to no job gets a letter without one. If its step no longer waits, nothing is written.

    Raises:
        OwnershipLost: the step has started or ended meanwhile; nothing was written.
    """
    letter_id = letter_id_of(dead)
    if connection.execute(select(letters.c.id).where(letters.c.id == letter_id)).first() is not None:
        return Recorded()
    # A message that killed its workers is `lost`; any other is undeliverable by a fault of the service.
    code = "lost" if dead.reason == "max_deliveries" else "internal"
    error = {"code": code, "message": f"its message died in Redis: {storable_text(dead.reason)}"}
    message = document_of(dead.payload)
    found = load(connection, storable_text(dead.entry_id))
    if found is None or (found["lane"], found["account"]) != (dead.lane, dead.account):
        _insert_letter_without_job(connection, dead, letter_id, error, message)
        return Recorded()
    if found["status"] not in ("queued", "retrying") or found["job_status"] in FINISHED:
        return Recorded()
    waiting = attempt_of(found)
    following = finish_steps.fail_waiting(connection, waiting, error=error, message=message, letter_id=letter_id)
    return Recorded(waiting.job_id, following)


def letter_id_of(dead: UndeliverableMessage) -> str:
    """A UUIDv7 that is the same for the same message: its time, and a hash instead of random bits."""
    names = json.dumps([dead.lane, dead.record_id, dead.account, dead.entry_id])
    bits = int.from_bytes(hashlib.sha256(names.encode()).digest()[:10])
    value = int(dead.set_aside_at.timestamp() * 1000) << 80 | bits
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def document_of(payload: bytes) -> dict[str, Any]:
    """The message as a document that both databases can store; one that is not a JSON object as text in `payload`."""
    try:
        document = json.loads(payload, parse_constant=_refuse)
        json.dumps(document, allow_nan=False)  # 1e999 is read as infinity
        storable = fault_of(document) is None
    except (ValueError, RecursionError):
        document, storable = None, False
    if isinstance(document, dict) and storable:
        return document
    return {"payload": storable_text(payload.decode("utf-8", "backslashreplace"))[:MAX_PAYLOAD_CHARACTERS]}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _insert_letter_without_job(
    connection: Connection, dead: UndeliverableMessage, letter_id: str, error: dict[str, Any], message: dict[str, Any]
) -> None:
    letter = {
        "id": letter_id,
        "account": None if dead.account is None else storable_text(dead.account),
        "lane": dead.lane,
        "actor": str(message.get("actor_name") or "unknown"),
        "message": message,
        "error_code": error["code"],
        "error": error,
    }
    connection.execute(insert(letters).values(**letter, created_at=db_now()))
    alerts.dead_letter(connection, letter, step=None)
