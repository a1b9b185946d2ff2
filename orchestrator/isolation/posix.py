"""Kernel calls that Python lacks, and the clock of the isolation processes.

`step_supervisor.py` and `zygote.py` rely on `become_subreaper` and `die_with_parent`. macOS has neither: both return
False there, and an orphan of a step can escape to launchd.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

LINUX: bool = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def now() -> float:
    """Seconds on a clock that continues while the host is suspended, so that a pause counts as silence."""
    if LINUX:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def become_subreaper() -> bool:
    """Make every orphan below this process its child, however it detached itself. False where unsupported."""
    return _libc is not None and _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def die_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when `parent` dies. Only for single-threaded parents.

    The signal follows the parent's *thread*, and a parent that died before this call sends none: hence the check.
    """
    if _libc is None or _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    if os.getppid() != parent:
        os._exit(1)
    return True


def map_to_read(descriptor: int, size: int) -> memoryview:
    """`size` bytes of a file as read-only memory, shared with its writer; the descriptor may be closed.

    Not `mmap.mmap` on Linux: it keeps a copy of the descriptor, which every fork would inherit.
    """
    if _libc is None:
        return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "cannot map the page of the worker's heartbeat")
    return memoryview((ctypes.c_char * size).from_address(address)).toreadonly().cast("B")


def name_process(name: str) -> None:
    """Show `name` (15 characters) in ps and top, since forks share the zygote's command line."""
    if _libc is not None:
        _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def reset_signals() -> None:
    """Unblock all signals: exec keeps the worker's mask, and Dramatiq's CLI sets one."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ignore_stop_signals() -> None:
    """Ignore the signals of an orderly stop: supervisors, zygote and guard end by end of file, after the steps."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def prefer_for_oom_kill() -> None:
    """Make the kernel's out-of-memory killer choose the step before the worker, its supervisor or the guard."""
    with suppress(OSError):  # not Linux, or /proc is read-only; it is only a preference
        Path("/proc/self/oom_score_adj").write_text("500")
