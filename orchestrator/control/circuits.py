"""When circuits open, by the settings."""

from __future__ import annotations

from tenants.store.accounts.circuits import CircuitPolicy

from ..settings import Settings


def circuit_policy(settings: Settings) -> CircuitPolicy | None:
    """None: circuits are turned off."""
    if not settings.circuit_failures:
        return None
    return CircuitPolicy(settings.circuit_failures, settings.circuit_cooldown)
