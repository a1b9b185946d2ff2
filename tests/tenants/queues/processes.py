"""Worker processes of the broker's tests, and the messages that they run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import dramatiq

from tenants.queues import Entry, TenantBroker
from tests.tenants.queues.lanes import LANE

StartProcess = Callable[..., subprocess.Popen[str]]


#: Long enough that no lease ends because its worker does not get to run: six seconds of that have been seen.
LEASE_SECONDS = 10.0


def note(number: int, account: str, seconds: float = 0.01) -> Entry:
    return Entry(dramatiq.Message(LANE, "note", (number, seconds), {}, {"account": account}), str(number))


def is_empty(broker: TenantBroker) -> bool:
    totals = broker.queues_admin.totals(LANE)
    return totals.waiting + totals.active + totals.delayed == 0
