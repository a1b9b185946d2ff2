"""When circuits open, by the settings; and what becomes of open ones when they are turned off."""

from __future__ import annotations

import logging

from tenants.store import circuits
from tenants.store.circuits import CircuitPolicy

from .runtime import Runtime
from .settings import Settings

log = logging.getLogger(__name__)


def circuit_policy(settings: Settings) -> CircuitPolicy | None:
    """None: circuits are turned off."""
    if not settings.circuit_failures:
        return None
    return CircuitPolicy(settings.circuit_failures, settings.circuit_cooldown)


def close_if_turned_off(runtime: Runtime) -> None:
    """Nothing would open circuits any more, and nothing but a canary would close those that are open."""
    if circuit_policy(runtime.settings) is not None:
        return
    for account in runtime.database.write(circuits.close_all):
        log.info("the circuits of account %r are closed: ONELANE_CIRCUIT_FAILURES is 0", account)
        runtime.settings_sync.sync_account(account)
