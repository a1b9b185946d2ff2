"""Moves undeliverable messages from Redis to the dead letters in SQL, so that there is one list of all dead letters.

Otherwise their steps would wait forever: they are queued in SQL, and no worker gets the message.

Invariant: a message is removed from Redis only after its dead letter was committed.
"""

from __future__ import annotations

import logging

from tenants.errors import OwnershipLost
from tenants.queues import BuriedMessage
from tenants.store.steps import undeliverable
from tenants.store.steps.undeliverable import UndeliverableMessage

from .. import metrics
from ..runtime import Runtime

log = logging.getLogger(__name__)

_AT_ONCE = 100


def move_undeliverable(runtime: Runtime) -> bool:
    """Move a page of each lane's undeliverable messages; returns whether there may be more.

    Raises:
        dramatiq's ConnectionClosed: Redis is unreachable.
        Unavailable: the database is.
    """
    admin = runtime.broker.queues_admin
    more = False
    for lane in admin.lanes():
        found = admin.buried(lane, _AT_ONCE)
        moved = [each.buried_id for each in found if _record(runtime, each)]
        if moved:
            admin.take_buried(lane, moved)
        more = more or len(moved) == _AT_ONCE
    return more


def _record(runtime: Runtime, dead: BuriedMessage) -> bool:
    message = UndeliverableMessage(
        lane=dead.lane,
        account=dead.account,
        entry_id=dead.entry_id,
        record_id=dead.buried_id,
        set_aside_at=dead.buried_at,
        reason=dead.reason,
        payload=dead.payload,
    )
    try:
        recorded = runtime.database.write(lambda connection: undeliverable.record(connection, message))
    except OwnershipLost as error:
        log.info("undeliverable message %s is tried again: %s", dead.entry_id, error)
        return False
    if recorded.following is not None:
        runtime.dispatcher.send([recorded.following])
    metrics.BURIED.inc()
    whose = "no waiting step" if recorded.job_id is None else f"a waiting step of job {recorded.job_id}"
    log.error("lane %s: message %s of %s is undeliverable (%s)", dead.lane, dead.entry_id, whose, dead.reason)
    return True
