"""Tells whether this process is a fork of the one that made something: connections and leases are not shared.

A counter instead of the process id, because that is a system call, and it would be asked at each message.
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
