"""When circuits open, by the settings; and the end of open ones when circuits are turned off."""

from __future__ import annotations

import logging

from tenants.database import Database
from tenants.store import circuits
from tenants.store.circuits import CircuitPolicy

from .settings import Settings
from .settings_sync import SettingsSync

log = logging.getLogger(__name__)


def circuit_policy(settings: Settings) -> CircuitPolicy | None:
    """None: circuits are turned off."""
    if not settings.circuit_failures:
        return None
    return CircuitPolicy(settings.circuit_failures, settings.circuit_cooldown)


def close_if_turned_off(settings: Settings, database: Database, settings_sync: SettingsSync) -> None:
    """Close all circuits when they are turned off: only a canary would close them otherwise."""
    if circuit_policy(settings) is not None:
        return
    for account in database.write(circuits.close_all):
        log.info("the circuits of account %r are closed: ONELANE_CIRCUIT_FAILURES is 0", account)
        settings_sync.sync_account(account)
