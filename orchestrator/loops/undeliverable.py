"""Moves what Redis has buried to the dead letters in SQL, where people look: one list for all that died.

Without it a step whose message was buried would wait for ever: SQL says that it is queued, and nothing comes.

Invariant: a grave is emptied only after its dead letter was committed.
"""

from __future__ import annotations

import logging

from tenants.errors import OwnershipLost
from tenants.queues import BuriedMessage
from tenants.store import undeliverable
from tenants.store.undeliverable import UndeliverableMessage

from .. import metrics
from ..runtime import Runtime

log = logging.getLogger(__name__)

_AT_ONCE = 100


def move_undeliverable(runtime: Runtime) -> bool:
    """Look at a page of each lane's graves; gives back whether there may be more.

    Raises:
        dramatiq's ConnectionClosed: Redis is away.
        Unavailable: the database is.
    """
    admin = runtime.broker.queues_admin
    more = False
    for lane in admin.lanes():
        graves = admin.buried(lane, _AT_ONCE)
        kept = [grave.burial_id for grave in graves if _keep(runtime, grave)]
        if kept:
            admin.take_buried(lane, kept)
        more = more or len(kept) == _AT_ONCE
    return more


def _keep(runtime: Runtime, grave: BuriedMessage) -> bool:
    burial = UndeliverableMessage(
        lane=grave.lane,
        account=grave.account,
        entry_id=grave.entry_id,
        burial_id=grave.burial_id,
        buried_at=grave.buried_at,
        reason=grave.reason,
        payload=grave.payload,
    )
    try:
        kept = runtime.database.write(lambda connection: undeliverable.record(connection, burial))
    except OwnershipLost as error:
        log.info("the grave of entry %s is looked at again: %s", grave.entry_id, error)
        return False
    if kept.following is not None:
        runtime.dispatcher.send([kept.following])
    metrics.BURIED.inc()
    whose = "belongs to no waiting step" if kept.job_id is None else f"was waited for by job {kept.job_id}"
    log.error("lane %s: message %s was buried (%s); it %s", grave.lane, grave.entry_id, grave.reason, whose)
    return True
