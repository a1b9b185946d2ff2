"""A control plane without its HTTP face: the loops, until standard input closes or a SIGTERM comes."""

from __future__ import annotations

import os
import signal
import sys

from orchestrator.loops.service import Loops
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings


def main() -> int:
    runtime = Runtime(Settings.load())
    loops = Loops(runtime)
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    loops.start()
    print("ready", flush=True)
    try:
        while os.read(0, 64):
            pass
    except OSError:
        pass  # the signal closed it
    loops.stop()
    runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
