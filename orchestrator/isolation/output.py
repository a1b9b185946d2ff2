"""The last bytes that a step's processes wrote to standard output and error."""

from __future__ import annotations

import os

TAIL_BYTES = 8_192
_CHUNK = 1 << 16


class OutputTail:
    """Reads the output pipe without blocking and keeps only the last `TAIL_BYTES`."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._tail = bytearray()
        self._seen = 0
        self.closed = False

    def fileno(self) -> int:
        return self._descriptor

    def pull(self) -> None:
        """Read what has arrived, at most a few chunks: an endless writer must not block the caller."""
        for _ in range(16):
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self.closed = True
                return
            self._seen += len(chunk)
            self._tail += chunk
            del self._tail[:-TAIL_BYTES]

    def text(self) -> str:
        """The tail as text; if bytes before it were dropped, its first line says how many."""
        text = self._tail.decode("utf-8", "replace").replace("\x00", "\ufffd").strip()
        missing = self._seen - len(self._tail)
        return f"[{missing} bytes before this left out]\n{text}" if missing else text

    def close(self) -> None:
        self.closed = True
        os.close(self._descriptor)
