"""Messages that died in Redis: each becomes a dead letter, and the step that waited for it ends.

Redis buries what no worker can run: a message that cannot be decoded, or whose actor no worker of the lane knows.

Invariant: keeping the same burial again changes nothing, since its letter has an id that follows from the burial. So a
message is taken out of Redis only after this was committed, and a crash in between neither loses nor doubles it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from ..columns import db_now
from ..models import DeadLetter, Step
from ..storable import fault_of, storable_text
from . import alerts, outcomes
from .dispatch import Dispatch
from .jobs import FINISHED
from .steps import load, owned_of

letters, steps = DeadLetter.__table__, Step.__table__

#: Of a message that is no JSON object, so much is kept.
MAX_PAYLOAD_CHARACTERS = 16_000


@dataclass(frozen=True, slots=True)
class UndeliverableMessage:
    """A dead message, as Redis kept it."""

    lane: str
    account: str | None
    #: Of the message; a step's id, if it is onelane's own.
    entry_id: str
    #: Unique in its lane.
    burial_id: str
    buried_at: datetime
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a burial."""

    #: The job whose step waited for the message; None when none did.
    job_id: str | None = None
    #: The step to hand to Redis, because the job goes on without the one that failed.
    following: Dispatch | None = None


def record(connection: Connection, burial: UndeliverableMessage) -> Kept:
    """Make a dead letter of a burial: its waiting step fails for good, as by any other error that no retry mends.

    A message that belongs to no job gets a letter without one. When its step moved on meanwhile, nothing is left to do.

    Raises:
        OwnershipLost: the step moved on at this very moment; nothing was written.
    """
    letter_id = letter_id_of(burial)
    if connection.execute(select(letters.c.id).where(letters.c.id == letter_id)).first() is not None:
        return Kept()
    # A poisoned message that killed its workers is `lost`; whatever else dies in Redis does so by a fault of ours.
    code = "lost" if burial.reason == "max_deliveries" else "internal"
    error = {"code": code, "message": f"its message died in Redis: {storable_text(burial.reason)}"}
    message = document_of(burial.payload)
    found = load(connection, storable_text(burial.entry_id))
    if found is None or (found["lane"], found["account"]) != (burial.lane, burial.account):
        _keep_jobless(connection, burial, letter_id, error, message)
        return Kept()
    if found["status"] not in ("queued", "retrying") or found["job__status"] in FINISHED:
        return Kept()
    waiting = owned_of(found, found["run_token"], found["attempt"], {})
    following = outcomes.fail_waiting(connection, waiting, error=error, message=message, letter_id=letter_id)
    return Kept(waiting.job_id, following)


def letter_id_of(burial: UndeliverableMessage) -> str:
    """A UUIDv7 that is the same for the same burial: its time, then a hash in the place of chance."""
    names = json.dumps([burial.lane, burial.burial_id, burial.account, burial.entry_id])
    chance = int.from_bytes(hashlib.sha256(names.encode()).digest()[:10])
    value = int(burial.buried_at.timestamp() * 1000) << 80 | chance
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def document_of(payload: bytes) -> dict[str, Any]:
    """The message as a document that both databases take; what is none is kept as text under `payload`."""
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


def _keep_jobless(
    connection: Connection, burial: UndeliverableMessage, letter_id: str, error: dict[str, Any], message: dict[str, Any]
) -> None:
    letter = {
        "id": letter_id,
        "account": None if burial.account is None else storable_text(burial.account),
        "lane": burial.lane,
        "actor": str(message.get("actor_name") or "unknown"),
        "message": message,
        "error_code": error["code"],
        "error": error,
    }
    connection.execute(insert(letters).values(**letter, created_at=db_now()))
    alerts.dead_letter(connection, letter, step=None)
