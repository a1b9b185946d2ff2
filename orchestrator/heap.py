"""The garbage collector of a process that serves for long."""

from __future__ import annotations

import gc

#: New objects until the youngest are looked through, and young collections until an older generation is.
_THRESHOLDS = (10_000, 20, 20)


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
