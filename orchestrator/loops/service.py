"""Runs the loops: a thread a loop, which calls `run_once` repeatedly and survives its failures."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from dramatiq.errors import BrokerConnectionError

from tenants.errors import Unavailable
from tenants.queues import QueueError
from tenants.queues.notices import warn

from .. import metrics
from ..runtime import Runtime

log = logging.getLogger(__name__)


class Loop(Protocol):
    """One background loop. `run_once` does a bounded piece of work, and returns whether more is waiting."""

    name: str
    interval_seconds: float

    def run_once(self) -> bool: ...


class Loops:
    """All loops of a control plane."""

    def __init__(self, runtime: Runtime) -> None:
        from .alerts import AlertLoop
        from .dispatcher import DispatchLoop
        from .eraser import Eraser
        from .gauges import GaugeLoop
        from .pruner import Pruner
        from .reaper import Reaper
        from .reconciler import Reconciler
        from .rescuer import Rescuer
        from .scheduler import Scheduler
        from .schedules import ScheduleLoop
        from .settings_sync import SettingsSyncLoop

        loops: list[Loop] = [
            Scheduler(runtime),
            ScheduleLoop(runtime),
            DispatchLoop(runtime),
            Rescuer(runtime),
            Reaper(runtime),
            Pruner(runtime),
            Reconciler(runtime),
            SettingsSyncLoop(runtime),
            Eraser(runtime),
            GaugeLoop(runtime),
            AlertLoop(runtime),
        ]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), name=f"loop-{loop.name}", daemon=True) for loop in loops
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self, loop: Loop) -> None:
        while not self._stopping.is_set():
            more = False
            try:
                more = loop.run_once()
            except (Unavailable, BrokerConnectionError, QueueError) as error:
                metrics.LOOP_FAILURES.labels(loop.name).inc()
                warn(log, error, "loop %s: %s", loop.name, error)
            except Exception:
                metrics.LOOP_FAILURES.labels(loop.name).inc()
                log.exception("loop %s failed; it is continued", loop.name)
            if not more:
                self._stopping.wait(loop.interval_seconds)
