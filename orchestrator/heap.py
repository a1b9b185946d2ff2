"""The garbage collector of a process that serves for long."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

#: New objects until the youngest are looked through, and young collections until an older generation is.
_THRESHOLDS = (10_000, 20, 20)
_counting = threading.Lock()
_pauses = 0


def freeze_heap() -> None:
    """Keep what is loaded by now out of every later collection; called once, when a process begins to serve.

    A full collection goes through every object that is alive, and no thread of the process runs meanwhile. Modules,
    schemas and their like are 150,000 objects, which live as long as the process: each of those collections would
    take 50 to 100 ms to find nothing, and everybody who calls at that moment would wait for it. The young ones become
    rarer: a batch of 1,000 jobs makes some 40,000 objects, all of which its references free.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No collection in any thread while this lasts; for bounded work that makes many objects which all stay alive.

    A body of 1 MiB that is nothing but brackets is 500,000 lists. Collections while they are made find nothing, take
    ten times as long as the parser, and hold the GIL.
    """
    global _pauses
    with _counting:
        _pauses += 1
        gc.disable()
    try:
        yield
    finally:
        with _counting:
            _pauses -= 1
            if not _pauses:
                gc.enable()
