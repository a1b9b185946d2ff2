"""The tenant-queue broker: every account's messages one at a time, in order, apart from all others.

    from tenants.queues import TenantBroker
    broker = TenantBroker(url="redis://localhost:6379")
    dramatiq.set_broker(broker)
    actor.send_with_options(args=(1,), account="acme")

Needs Redis 6.2 or newer (or Valkey) and Dramatiq; nothing else of onelane.
"""

from .broker import TenantBroker
from .descriptions import BuriedMessage, HeldEntries, HeldLease, LaneTotals, QueueDescription, Reason, Violation
from .embedded import EmbeddedValkey
from .entry import Entry, entry_id_of
from .errors import (
    EmbeddedServerFailed,
    InvalidEntry,
    LeaseLost,
    QueueError,
    QueueFull,
    ScriptFailed,
    ServerUnreachable,
    SlotMoved,
    UnsupportedServer,
)
from .leases import lease_holder
from .limits import FOR_GOOD, QueueLimits, Rate, StoredSettings, until_ms
from .message import LeasedMessage, current_message
from .server import ServerInfo
from .tenant_queue import CheckPosition, TenantQueues
from .urls import node_urls

__all__ = [
    "FOR_GOOD",
    "BuriedMessage",
    "CheckPosition",
    "EmbeddedServerFailed",
    "EmbeddedValkey",
    "Entry",
    "HeldEntries",
    "HeldLease",
    "InvalidEntry",
    "LaneTotals",
    "LeaseLost",
    "LeasedMessage",
    "QueueDescription",
    "QueueError",
    "QueueFull",
    "QueueLimits",
    "Rate",
    "Reason",
    "ScriptFailed",
    "ServerInfo",
    "ServerUnreachable",
    "SlotMoved",
    "StoredSettings",
    "TenantBroker",
    "TenantQueues",
    "UnsupportedServer",
    "Violation",
    "current_message",
    "entry_id_of",
    "lease_holder",
    "node_urls",
    "until_ms",
]
