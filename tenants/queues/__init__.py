"""The tenant-queue broker: every account's messages one at a time, in order, apart from all others.

    from tenants.queues import TenantBroker
    broker = TenantBroker(url="redis://localhost:6379")
    dramatiq.set_broker(broker)
    actor.send_with_options(args=(1,), account="acme")

Needs Redis 6.2 or newer (or Valkey) and Dramatiq; nothing else of onelane. A name is imported at its first use, so that
`EmbeddedValkey` costs no broker and a broker needs no embedded server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .broker import TenantBroker
    from .checking import CheckPosition
    from .descriptions import (
        AccountLoad,
        BuriedMessage,
        HeldEntries,
        HeldLease,
        LaneTotals,
        QueueDescription,
        Reason,
        Violation,
    )
    from .embedded import EmbeddedValkey
    from .entry import Entry, entry_id_of
    from .errors import (
        EmbeddedServerFailed,
        InvalidEntry,
        LeaseLost,
        QueueError,
        QueueFull,
        ScriptFailed,
        ServerRefuses,
        ServerUnreachable,
        SlotMoved,
        UnsupportedLayout,
        UnsupportedServer,
    )
    from .leases import lease_holder
    from .limits import FOR_GOOD, QueueLimits, Rate, StoredSettings, until_ms
    from .message import LeasedMessage, current_message
    from .server import ServerHealth, ServerInfo
    from .tenant_queue import TenantQueues
    from .urls import node_urls

__all__ = [
    "FOR_GOOD",
    "AccountLoad",
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
    "ServerHealth",
    "ServerInfo",
    "ServerRefuses",
    "ServerUnreachable",
    "SlotMoved",
    "StoredSettings",
    "TenantBroker",
    "TenantQueues",
    "UnsupportedLayout",
    "UnsupportedServer",
    "Violation",
    "current_message",
    "entry_id_of",
    "lease_holder",
    "node_urls",
    "until_ms",
]

#: Where the public names are.
_MODULES = {
    "base_error": "EmbeddedServerFailed QueueError",
    "broker": "TenantBroker",
    "checking": "CheckPosition",
    "descriptions": "AccountLoad BuriedMessage HeldEntries HeldLease LaneTotals QueueDescription Reason Violation",
    "embedded": "EmbeddedValkey",
    "entry": "Entry entry_id_of",
    "errors": "InvalidEntry LeaseLost QueueFull ScriptFailed ServerRefuses ServerUnreachable SlotMoved "
    "UnsupportedLayout UnsupportedServer",
    "leases": "lease_holder",
    "limits": "FOR_GOOD QueueLimits Rate StoredSettings until_ms",
    "message": "LeasedMessage current_message",
    "server": "ServerHealth ServerInfo",
    "tenant_queue": "TenantQueues",
    "urls": "node_urls",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
_OTHER_NAMES = {"CLUSTER_SCHEMES": "SCHEMES"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), _OTHER_NAMES.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
