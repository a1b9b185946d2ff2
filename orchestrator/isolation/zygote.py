"""The zygote: one process per worker that has the steps' modules loaded and forks a supervisor and a child on request.

Started by exec with an allow-listed environment, so neither its memory nor /proc/<pid>/environ ever held the worker's
secrets. Single-threaded, so that forking is safe. Each request is one byte that carries three descriptors (the child's
connection, the supervisor's connection, the write end of the output pipe); nothing else of the worker is inherited.

It is a subreaper too: orphans of a killed supervisor become its children, and it ends them. At end of file (the worker
has gone) it waits until its supervisors have ended their trees, and exits. When the worker is silent it ends the trees
that the supervisors have not ended, and later kills the worker, as the guard does: either of the two may be missing.

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
from orchestrator.isolation.posix import (
    become_subreaper,
    die_with_parent,
    ignore_stop_signals,
    name_process,
    now,
    reset_signals,
)
from orchestrator.isolation.process_tree import end_tree, identify, snapshot
from orchestrator.isolation.step_supervisor import StepSupervisor, Wakeups

FDS_PER_FORK = 3
#: How long the supervisors have to end their trees after the worker's death, before the zygote ends them.
SUPERVISORS_GRACE_SECONDS = 1.0
#: How long after the supervisors it ends steps when the worker is silent, and how often it checks.
SILENCE_SLACK_SECONDS = 1.0
CHECK_SECONDS = 1.0


def main(config: dict[str, Any]) -> None:
    """Entry of the zygote's process.

    `config`: ``socket`` and ``heartbeat`` (descriptors), ``preload`` (module names), and what the guard's process gets.
    """
    name_process("onelane-zygote")
    reset_signals()
    ignore_stop_signals()
    become_subreaper()
    watch = WorkerWatch.from_config(config)
    connection = socket.socket(fileno=config["socket"])
    connection.set_inheritable(False)
    worker = Channel(connection)
    for module in config["preload"]:
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
        self._supervisors: set[int] = set()
        self._wakeups = Wakeups()

    def run(self) -> None:
        """Fork for the worker until it has gone; return when no supervisor is left."""
        while self._serve_once():
            self._check_silence()
        self._worker.close()
        ends_at = now() + SUPERVISORS_GRACE_SECONDS
        while self._supervisors:
            wait([self._wakeups], max(0.01, ends_at - now()))
            self._wakeups.clear()
            self._reap()
            if now() >= ends_at:
                self._end_supervisors()

    def _serve_once(self) -> bool:
        readable = wait([self._worker, self._wakeups], CHECK_SECONDS)
        self._wakeups.clear()
        self._reap()
        if self._worker in readable:
            try:
                request, descriptors, _, _ = socket.recv_fds(self._worker.sock, 1, FDS_PER_FORK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not request:
                return False
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self._fork_supervisor(descriptors)
        return True

    def _check_silence(self) -> None:
        if self._watch.worker_serves and self._watch.seconds_left(SILENCE_SLACK_SECONDS) <= 0:
            self._end_supervisors()
        killed = self._watch.kill_worker_when_due()
        if killed is not None:
            with suppress(OSError):  # the worker's terminal may have gone
                print(f"onelane zygote: {killed}", file=sys.stderr, flush=True)

    def _fork_supervisor(self, descriptors: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_supervisor(descriptors)
        self._supervisors.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_supervisor(self, descriptors: list[int]) -> NoReturn:
        status = 1
        try:
            os.setsid()
            self._wakeups.close()
            self._worker.sock.close()
            control, supervisor, output = descriptors
            worker = socket.socket(fileno=supervisor)

            def fork_child(wakeups: Wakeups) -> int:
                supervisor_pid = os.getpid()
                pid = os.fork()
                if pid == 0:
                    worker.close()
                    wakeups.close()
                    die_with_parent(supervisor_pid)
                    child.run(control, output)
                os.close(control)
                os.close(output)
                return pid

            StepSupervisor(worker, self._watch, fork_child).run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        failed = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid in self._supervisors:
                self._supervisors.discard(pid)
                failed = failed or status != 0  # one that exits with 0 has proved that its tree is gone
        if failed:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """End every child that is not a supervisor: its supervisor was killed."""
        while True:
            orphans = [
                record.identity
                for record in snapshot().values()
                if record.parent == os.getpid() and record.identity.pid not in self._supervisors
            ]
            if not orphans:
                return
            for orphan in orphans:
                end_tree(orphan)
                with suppress(ChildProcessError):
                    os.waitpid(orphan.pid, os.WNOHANG)

    def _end_supervisors(self) -> None:
        for pid in self._supervisors:
            # A supervisor is our child and not yet collected, so its pid cannot be another process'.
            identity = identify(pid)
            if identity is not None:
                end_tree(identity)
        self._reap()
