"""Alerts and circuits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from .connection import Api
from .types import Alert, AlertsTested, OpenCircuit


class AlertsApi(Api):
    """`/v1/admin/alerts`."""

    def list(self, *, limit: int | None = 50, account: str | None = None, kind: str | None = None) -> Iterator[Alert]:
        """Alerts, newest first; equal events are one alert with a count."""
        return self._connection.pages("/v1/admin/alerts", {"account": account, "kind": kind}, limit)

    def test(self) -> AlertsTested:
        """Send a test message to every alert URL of the service."""
        return cast("AlertsTested", self._connection.call("POST", "/v1/admin/alerts:test", wait_seconds=30))

    def circuits(
        self, *, limit: int | None = 50, lane: str | None = None, account: str | None = None
    ) -> Iterator[OpenCircuit]:
        """Tenant queues that are stopped because too many of their steps failed in a row."""
        return self._connection.pages("/v1/admin/circuits", {"lane": lane, "account": account}, limit)
