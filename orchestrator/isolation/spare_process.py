"""A forked pair of step supervisor and child that waits for a call, and the worker's ends of its connections.

Invariant: it runs at most one call. Its connections close when the worker dies, however it dies; that is how supervisor
and child notice.
"""

from __future__ import annotations

import os
import socket

from orchestrator.isolation.frames import Channel, wait
from orchestrator.isolation.output import OutputTail
from orchestrator.isolation.posix import now
from orchestrator.isolation.process_tree import ProcessId, identify
from orchestrator.isolation.zygote_link import SpareProcessGone, ZygoteGone, ZygoteLink

FORK_SECONDS = 15.0


class SpareProcess:
    """Forked by `zygote` on creation; `ready` waits for the fork. Both raise ZygoteGone."""

    def __init__(self, zygote: ZygoteLink, max_bytes: int) -> None:
        control, control_theirs = socket.socketpair()
        supervisor, supervisor_theirs = socket.socketpair()
        output, output_theirs = os.pipe()
        self.control = Channel(control, max_bytes=max_bytes)
        self.supervisor = Channel(supervisor)
        self.output = OutputTail(output)
        self.supervisor_identity: ProcessId | None = None
        #: It was given a call, or closed.
        self.used = False
        try:
            zygote.fork([control_theirs.fileno(), supervisor_theirs.fileno(), output_theirs])
        except BaseException:
            self.close()
            raise
        finally:
            control_theirs.close()
            supervisor_theirs.close()
            os.close(output_theirs)

    def ready(self) -> ProcessId:
        """The supervisor, once it has reported. Raises ZygoteGone if it does not, or has died since."""
        ends_at = now() + FORK_SECONDS
        self._read()
        while self.supervisor_identity is None:
            # Before the wait and the read: this process may have been stopped since the last one.
            is_over = now() >= ends_at
            wait([self.supervisor], ends_at - now())
            self._read()
            if is_over and self.supervisor_identity is None:
                raise ZygoteGone(f"no process was forked for a step within {FORK_SECONDS:.0f} s")
        return self.supervisor_identity

    def _read(self) -> None:
        for message in self.supervisor.pull():
            if "hello" in message:
                self.supervisor_identity = identify(message["hello"]["supervisor"])
            elif "ended" in message:
                raise SpareProcessGone("the waiting process has ended")
        if self.supervisor.closed:
            raise SpareProcessGone("the forked process has gone")

    def close(self) -> None:
        self.used = True
        self.control.close()
        self.supervisor.close()
        self.output.close()
