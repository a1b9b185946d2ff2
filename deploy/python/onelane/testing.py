"""For tests of your own steps, without a worker: see `docs/pipelines.md`.

from onelane.testing import MemoryPort, run_step
"""

from actors.testing import MemoryPort, make_context, run_step

__all__ = ["MemoryPort", "make_context", "run_step"]
