"""Settings of the garbage collector for long-running processes."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

#: New objects until a collection of the youngest generation, and collections until one of the next generation.
_THRESHOLDS = (10_000, 20, 20)
_counting = threading.Lock()
_pauses = 0


def freeze_heap() -> None:
    """Exclude all present objects from later collections; called once, when a process begins to serve.

    A full collection visits every object, and no thread of the process runs meanwhile. Modules and schemas are 150,000
    objects that live as long as the process: each full collection would take 50 to 100 ms and find nothing. Young
    collections are made rarer: a batch of 1,000 jobs makes some 40,000 objects, which reference counting frees.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Disable collections meanwhile, in all threads; for bounded work that makes many objects which all stay alive.

    A body of 1 MiB of brackets is 500,000 lists. Collections while they are made find nothing, take ten times as long
    as the parser, and hold the GIL.
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
