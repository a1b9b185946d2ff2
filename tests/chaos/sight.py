"""A step's side of the observer: begin, whatever it does, end. Plain sockets: steps import nothing of the service."""

from __future__ import annotations

import json
import os
import socket
import uuid
from types import TracebackType
from typing import Any, Self

#: An observer that does not answer for this long would be a fault of the harness.
_TIMEOUT_SECONDS = 30.0


class Sight:
    """One run of a step under the observer's eyes. Leave the `with` without an error to say that it ended."""

    def __init__(self, port: int, *, queue: str, **known: Any) -> None:
        self.id = uuid.uuid4().hex
        self._begin = {"event": "begin", "id": self.id, "queue": queue, "pid": os.getpid(), **known}
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        self.report(self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.report({"event": "end", "id": self.id, "failed": kind is not None})
        finally:
            self._lines.close()
            self._socket.close()

    def post(self, marker: str, *, before: float, after: float) -> None:
        """The irreversible call: it comes into effect `before` seconds later, and is answered after `after` more."""
        self.report({"event": "post", "id": self.id, "marker": marker, "before": before, "after": after})

    def find(self, marker: str) -> int:
        """How many posts the target has under the marker."""
        return int(self.report({"event": "find", "marker": marker})["found"])

    def report(self, message: dict[str, Any]) -> dict[str, Any]:
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the observer has gone")
        answer: dict[str, Any] = json.loads(line)
        return answer
