"""The guard's own process: ends the steps' process trees when the worker fails.

It imports little and starts no thread. It knows each running step by the supervisor at the top of its tree, and ends

- a tree whose limit is over, a little after the supervisor should have done it;
- all trees when the worker is silent (`heartbeat.WorkerWatch`), a little after the supervisors, and the worker later;
- all trees, and then the scratch directory, at end of file or when the worker's pidfd reports its death.

A tree that cannot be proved gone (a process in uninterruptible sleep) is tried again every second.

Messages: ``ping {}``, ``register {key, pid, started, limit}``, ``forget {key}``, ``end {key}``, ``scratch {path}`` ←
worker; ``pong {}`` and ``ended {key, reason, processes}`` → worker, `reason` one of ``limit silent asked``.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

from orchestrator.isolation.frames import Channel, Source, wait
from orchestrator.isolation.heartbeat import WorkerWatch
from orchestrator.isolation.posix import LINUX, ignore_stop_signals, name_process, now, reset_signals
from orchestrator.isolation.process_tag import end_tagged, tag_of
from orchestrator.isolation.process_tree import ProcessId, TreeEnd, end_tree, is_running

#: How long after a step's limit the guard ends it, if its supervisor has not.
SUPERVISOR_SLACK_SECONDS = 1.0
#: The same for the worker's silence.
SILENCE_SLACK_SECONDS = 0.5
RETRY_SECONDS = 1.0
#: How often the heartbeat is checked while the worker has no step in a process.
IDLE_SECONDS = 1.0


@dataclass(slots=True)
class Tree:
    """A running step, or one that was ended and not yet forgotten (then `reason` is set)."""

    supervisor: ProcessId | None
    ends_at: float
    reason: str | None = None
    processes: int = 0
    proved: bool = False


def main(config: dict[str, Any]) -> None:
    """Entry of the guard's process.

    `config`: ``socket`` and ``heartbeat`` (descriptors), ``worker`` (pid), ``silence`` (seconds), ``worker_grace``
    (seconds or None).
    """
    name_process("onelane-guard")
    reset_signals()
    ignore_stop_signals()
    connection = socket.socket(fileno=config["socket"])
    connection.set_inheritable(False)
    GuardProcess(Channel(connection), config["worker"], WorkerWatch.from_config(config)).run()


class GuardProcess:
    def __init__(self, worker: Channel, worker_pid: int, watch: WorkerWatch) -> None:
        self._worker = worker
        self._watch = watch
        self._trees: dict[str, Tree] = {}
        self._scratch: set[str] = set()
        self._sources: list[Source] = [worker]
        self._worker_exit: Source | None = None
        if LINUX and os.getppid() == worker_pid:
            # Besides end of file, which a leaked copy of the worker's descriptor would delay.
            self._worker_exit = open(os.pidfd_open(worker_pid), "rb", buffering=0)  # noqa: SIM115
            self._sources.append(self._worker_exit)

    def run(self) -> None:
        while not self._worker_is_gone():
            # Messages are read before any step is checked: it may have ended while the guard was stopped.
            self._end_those_due()
            self._kill_silent_worker()
        for key, tree in self._trees.items():
            self._end(key, tree, "worker gone")
        while not all(tree.proved for tree in self._trees.values()):
            wait([], RETRY_SECONDS)
            for key, tree in self._trees.items():
                self._end(key, tree, "worker gone")
        self._remove_scratch()

    def _worker_is_gone(self) -> bool:
        """Wait until there is something to do, and handle the worker's messages."""
        readable = wait(self._sources, self._wait_seconds(), [self._worker] if self._worker.unsent else [])
        for message in self._worker.pull():
            self._handle(message)
        self._worker.flush()
        return self._worker.closed or self._worker_exit in readable

    def _wait_seconds(self) -> float:
        running = [tree for tree in self._trees.values() if not tree.proved]
        if not running:
            return IDLE_SECONDS
        if any(tree.reason for tree in running):
            return RETRY_SECONDS
        due = min(min(tree.ends_at for tree in running) - now(), self._watch.seconds_left(SILENCE_SLACK_SECONDS))
        # At most a second: poll() does not count the time that a host is suspended, and `now` does.
        return min(1.0, max(0.0, due))

    def _handle(self, message: dict[str, Any]) -> None:
        if "ping" in message:
            self._worker.post({"pong": {}})
        elif "register" in message:
            order = message["register"]
            ends_at = now() + order["limit"] + SUPERVISOR_SLACK_SECONDS
            self._trees[order["key"]] = Tree(ProcessId(order["pid"], order["started"]), ends_at)
        elif "forget" in message:
            self._trees.pop(message["forget"]["key"], None)
        elif "scratch" in message:
            self._scratch.add(message["scratch"]["path"])
        elif "end" in message:
            key = message["end"]["key"]
            tree = self._trees.setdefault(key, Tree(None, now()))
            self._end(key, tree, tree.reason or "asked")

    def _end_those_due(self) -> None:
        moment = now()
        for key, tree in self._trees.items():
            if tree.proved:
                continue
            if tree.reason is not None:
                self._end(key, tree, tree.reason)
            elif moment >= tree.ends_at:
                self._end(key, tree, "limit")
            elif self._watch.seconds_left(SILENCE_SLACK_SECONDS) <= 0:
                self._end(key, tree, "silent")

    def _kill_silent_worker(self) -> None:
        killed = self._watch.kill_worker_when_due()
        if killed is not None:
            self._print(killed)

    def _end(self, key: str, tree: Tree, reason: str) -> None:
        """End the tree, prove its end, and report it to the worker and (in case it is dead) on standard error."""
        if not tree.proved:
            tree.reason = reason
            ended = _end_step(tree.supervisor) if tree.supervisor is not None else None
            tree.processes += ended.processes if ended else 0
            tree.proved = ended is None or ended.proved
            if ended is not None and (ended.processes or not ended.proved):
                proof = "all proved gone" if tree.proved else "some are still there, trying again"
                self._print(f"step {key}: ended, {reason}; {ended.processes} processes killed, {proof}")
        if tree.proved:
            self._worker.post({"ended": {"key": key, "reason": tree.reason or reason, "processes": tree.processes}})

    def _print(self, line: str) -> None:
        try:
            print(f"onelane guard: {line}", file=sys.stderr, flush=True)
        except OSError:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the worker's terminal has gone

    def _remove_scratch(self) -> None:
        from orchestrator.isolation.step_supervisor import remove_directory

        for path in self._scratch:
            remove_directory(path)


def _end_step(supervisor: ProcessId) -> TreeEnd:
    """End a step's tree. If its supervisor was killed, its orphans are found by their tag."""
    if is_running(supervisor):
        return end_tree(supervisor)
    return end_tagged(tag_of(supervisor))
