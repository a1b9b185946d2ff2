"""The zygote: one process per worker that has the steps' modules loaded and forks a keeper and a child on request.

Started by exec with an allow-listed environment, so neither its memory nor /proc/<pid>/environ ever held the worker's
secrets. Single-threaded, so that forking is safe. Each request is one byte that carries three descriptors (the child's
connection, the keeper's connection, the write end of the output pipe); nothing else of the worker is inherited.

It is a subreaper too: should a keeper be killed, the orphans come here and are ended. At end of file (the worker has
gone) it waits for its keepers, which end their trees themselves, and leaves. When the worker is silent it does for the
keepers what they have not done, and later on kills the worker, as the guard does: either of the two may be missing.

Messages → worker: ``ready {threads}`` or ``failed {module, traceback}``, once.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from orchestrator.isolation import child
from orchestrator.isolation.frames import Channel, wait
from orchestrator.isolation.heartbeat import WorkerWatch
from orchestrator.isolation.keeper import Keeper, Wakeups
from orchestrator.isolation.posix import (
    become_subreaper,
    die_with_parent,
    name_process,
    now,
    outlive_orderly_stops,
    reset_signals,
)
from orchestrator.isolation.process_tree import end_tree, identify, snapshot

FDS_PER_CELL = 3
#: What every child needs, whichever step it runs.
ALWAYS_LOADED = ("actors.context", "actors.errors", "actors.signals")
#: With the worker gone, how long keepers get to end their trees before the zygote does it for them.
KEEPERS_GRACE_SECONDS = 1.0
#: How long after the keepers it ends steps for the worker's silence, and how often it looks.
SILENCE_SLACK_SECONDS = 1.0
LOOK_SECONDS = 1.0


def main(config: dict[str, Any]) -> None:
    """Entry of the zygote's process.

    `config`: ``socket`` and ``heartbeat`` (descriptors), ``preload`` (module names), and what the guard's process gets.
    """
    name_process("onelane-zygote")
    reset_signals()
    outlive_orderly_stops()
    become_subreaper()
    watch = WorkerWatch.from_config(config)
    connection = socket.socket(fileno=config["socket"])
    connection.set_inheritable(False)
    worker = Channel(connection)
    for module in (*ALWAYS_LOADED, *config["preload"]):
        try:
            importlib.import_module(module)
        except BaseException:
            worker.post({"failed": {"module": module, "traceback": traceback.format_exc(limit=-20)}})
            raise
    gc.collect()
    gc.freeze()  # a collection in a fork would otherwise write to, and so copy, every page of the modules
    worker.post({"ready": {"threads": threading.active_count()}})
    Zygote(worker, watch).run()


class Zygote:
    def __init__(self, worker: Channel, watch: WorkerWatch) -> None:
        self._worker = worker
        self._watch = watch
        self._keepers: set[int] = set()
        self._wakeups = Wakeups()

    def run(self) -> None:
        """Fork for the worker until it has gone; leave when nothing is left below."""
        while self._serve_once():
            self._act_on_silence()
        self._worker.close()
        ends_at = now() + KEEPERS_GRACE_SECONDS
        while self._keepers:
            wait([self._wakeups], max(0.01, ends_at - now()))
            self._wakeups.clear()
            self._reap()
            if now() >= ends_at:
                self._end_keepers()

    def _serve_once(self) -> bool:
        readable = wait([self._worker, self._wakeups], LOOK_SECONDS)
        self._wakeups.clear()
        self._reap()
        if self._worker in readable:
            try:
                request, descriptors, _, _ = socket.recv_fds(self._worker.sock, 1, FDS_PER_CELL)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not request:
                return False
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self._fork_keeper(descriptors)
        return True

    def _act_on_silence(self) -> None:
        if self._watch.worker_serves and self._watch.seconds_left(SILENCE_SLACK_SECONDS) <= 0:
            self._end_keepers()
        killed = self._watch.kill_worker_when_due()
        if killed is not None:
            with suppress(OSError):  # the worker's terminal may have gone
                print(f"onelane zygote: {killed}", file=sys.stderr, flush=True)

    def _fork_keeper(self, descriptors: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_keeper(descriptors)
        self._keepers.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_keeper(self, descriptors: list[int]) -> NoReturn:
        status = 1
        try:
            os.setsid()
            self._wakeups.close()
            self._worker.sock.close()
            control, keeper, output = descriptors
            worker = socket.socket(fileno=keeper)

            def fork_child(wakeups: Wakeups) -> int:
                keeper_pid = os.getpid()
                pid = os.fork()
                if pid == 0:
                    worker.close()
                    wakeups.close()
                    die_with_parent(keeper_pid)
                    child.run(control, output)
                os.close(control)
                os.close(output)
                return pid

            Keeper(worker, self._watch, fork_child).run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        broken = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._keepers:
                self._keepers.discard(pid)
                broken = broken or status != 0  # an orderly keeper has proved that its tree is gone
        if broken:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """End every child that is not a keeper: it was left by a keeper that was killed."""
        while True:
            orphans = [
                record.identity
                for record in snapshot().values()
                if record.parent == os.getpid() and record.identity.pid not in self._keepers
            ]
            if not orphans:
                return
            for orphan in orphans:
                end_tree(orphan)
                with suppress(ChildProcessError):
                    os.waitpid(orphan.pid, os.WNOHANG)

    def _end_keepers(self) -> None:
        for pid in self._keepers:
            # A keeper is our child and not yet collected, so its pid can't be anybody else's.
            identity = identify(pid)
            if identity is not None:
                end_tree(identity)
        self._reap()
