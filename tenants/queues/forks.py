"""Detects forks: a forked process must not use its parent's connections and leases.

A counter, because it is read for each message and the process id would be a system call.
"""

from __future__ import annotations

import os

_forks = 0


def _count() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count)


def generation() -> int:
    """A number that differs between a process and its forks."""
    return _forks
