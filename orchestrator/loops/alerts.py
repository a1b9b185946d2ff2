"""Sends alerts to the configured channels, at most the configured number of messages an hour.

One control plane claims a message in SQL, sends it outside of any transaction, and settles it. A channel that did not
accept the message gets it again with growing delays, the others do not; after the last try it is given up and counted.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from tenants.store.dead_letters import alerts as store
from tenants.store.dead_letters.alerts import Message

from .. import metrics
from ..alerts.channels import channels_of, chosen, send
from ..alerts.texts import text_of
from ..runtime import Runtime

log = logging.getLogger(__name__)


class AlertLoop:
    """See the module's docstring."""

    name = "alerts"
    interval_seconds = 1.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._channels = channels_of([url.get_secret_value() for url in runtime.settings.alert_urls])

    def run_once(self) -> bool:
        """Send one message; True when there may be another."""
        if not self._channels:
            return False
        database, per_hour = self._runtime.database, self._runtime.settings.alerts_per_hour
        if not database.read(store.anything_due):
            return False
        message = database.write(lambda connection: store.claim(connection, per_hour=per_hour))
        if message is None:
            return False
        if message.rows:
            self._send(message)
        return True

    def _send(self, message: Message) -> None:
        settings = self._runtime.settings
        text = text_of(message.rows, left=message.left, per_hour=settings.alerts_per_hour)
        channels = chosen(self._channels, message.channels)
        failed = send(channels, text.title, text.body, problem=text.problem)

        def settle(connection: Connection) -> int:
            return store.settle(
                connection,
                message,
                every=settings.alert_every,
                taken=len(channels) - len(failed),
                refused=[channel.position for channel in failed],
            )

        given_up = self._runtime.database.write(settle)
        metrics.ALERT_MESSAGES.labels("delivered").inc(len(channels) - len(failed))
        metrics.ALERT_MESSAGES.labels("failed").inc(len(failed))
        if given_up:
            metrics.ALERT_MESSAGES.labels("given_up").inc(given_up)
            log.error(
                "%d alert(s) are given up after %d tries: %s did not accept them",
                given_up,
                store.MAX_TRIES,
                ", ".join(map(str, failed)),
            )
