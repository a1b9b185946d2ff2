"""A cell: one keeper and one child, forked and waiting, and the worker's ends of their connections.

Invariant: a cell runs at most one call. The worker's ends close when the worker dies, whatever kills it, and that is
how keeper and child learn of it.
"""

from __future__ import annotations

import os
import socket

from orchestrator.isolation.frames import Channel, wait
from orchestrator.isolation.output import OutputTail
from orchestrator.isolation.posix import now
from orchestrator.isolation.process_tree import ProcessId, identify
from orchestrator.isolation.zygote_link import CellGone, ZygoteGone, ZygoteLink

FORK_SECONDS = 15.0


class Cell:
    """Forked by `zygote` on creation; `ready` waits until it is there. Raises ZygoteGone from either."""

    def __init__(self, zygote: ZygoteLink, max_bytes: int) -> None:
        self.zygote = zygote
        control, control_theirs = socket.socketpair()
        keeper, keeper_theirs = socket.socketpair()
        output, output_theirs = os.pipe()
        self.control = Channel(control, max_bytes=max_bytes)
        self.keeper = Channel(keeper)
        self.output = OutputTail(output)
        self.keeper_identity: ProcessId | None = None
        #: It was given a call, or closed.
        self.used = False
        self.child_pid = 0
        try:
            zygote.fork([control_theirs.fileno(), keeper_theirs.fileno(), output_theirs])
        except BaseException:
            self.close()
            raise
        finally:
            control_theirs.close()
            keeper_theirs.close()
            os.close(output_theirs)

    def ready(self) -> ProcessId:
        """The keeper, once it has reported. Raises ZygoteGone if the cell never came, or has died while it waited."""
        ends_at = now() + FORK_SECONDS
        self._hear()
        while self.keeper_identity is None:
            is_over = now() >= ends_at  # before the look: this process may have been stopped since the last one
            wait([self.keeper], ends_at - now())
            self._hear()
            if is_over and self.keeper_identity is None:
                raise ZygoteGone(f"no process was forked for a step within {FORK_SECONDS:.0f} s")
        return self.keeper_identity

    def _hear(self) -> None:
        for message in self.keeper.pull():
            if "hello" in message:
                self.keeper_identity = identify(message["hello"]["keeper"])
                self.child_pid = message["hello"]["child"]
            elif "ended" in message:
                raise CellGone("the waiting process has ended")
        if self.keeper.closed:
            raise CellGone("the forked process has gone")

    def close(self) -> None:
        self.used = True
        self.control.close()
        self.keeper.close()
        self.output.close()
