"""A control plane's heartbeat: a row in the database that a thread renews.

While the database is unreachable other processes may declare this one dead. Guards in its writes protect the data then,
not the heartbeat.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

from tenants.database.models import new_id
from tenants.database.transactions import CommitUnknown, Database
from tenants.errors import Unavailable
from tenants.store import control_planes

log = logging.getLogger(__name__)


class ControlPlaneHeartbeat:
    """The row of one process. `id` is None until it has been written."""

    def __init__(self, database: Database) -> None:
        self.id: str | None = None
        self._database = database
        self._own_id = new_id()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write the row, and renew it until `stop`."""
        self._renew()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Remove the row, so that other processes can take over this one's keys at once."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        try:
            self._database.write(lambda connection: control_planes.stop(connection, self._own_id))
        except (Unavailable, CommitUnknown) as error:
            log.warning("the stop could not be recorded; other processes detect it in a while: %s", error)

    def _run(self) -> None:
        while not self._stopping.wait(control_planes.RENEWAL_SECONDS):
            self._renew()

    def _renew(self) -> None:
        host, pid = socket.gethostname(), os.getpid()
        try:
            self._database.write(
                lambda connection: control_planes.renew(connection, id=self._own_id, host=host, pid=pid)
            )
        except (Unavailable, CommitUnknown) as error:
            log.warning("this control plane's heartbeat was not written: %s", error)
        except Exception:
            log.exception("this control plane's heartbeat was not written")
        else:
            self.id = self._own_id
