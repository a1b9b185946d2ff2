"""A proxy between workers and their server that loses answers, or every connection at once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Collection

from tenants.queues.lua import script


class LossyProxy:
    """Hands bytes on between `port` and the server; one call in `every` of the named verbs gets no answer.

    The server has run such a call; its connection ends before the answer passes.
    """

    def __init__(self, server_port: int, verbs: Collection[str] = (), every: int = 0) -> None:
        self._server_port = server_port
        self._shas = {script(verb).sha.encode(): verb for verb in verbs}
        self._every = every
        self._mutex = threading.Lock()
        self._seen: Counter[str] = Counter()
        #: Verb → answers lost.
        self.lost: Counter[str] = Counter()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._open = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Ends every connection; new ones are ended at once, until `restore`."""
        with self._mutex:
            self._open = False
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(*pair)

    def restore(self) -> None:
        with self._mutex:
            self._open = True

    def close(self) -> None:
        self.cut()
        # Only this wakes a thread that is blocked in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._mutex:
                if not self._open:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._server_port))
                self._pairs.append((near, far))
            losing = threading.Event()
            threading.Thread(target=self._requests, args=(near, far, losing), daemon=True).start()
            threading.Thread(target=self._answers, args=(near, far, losing), daemon=True).start()

    def _requests(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := near.recv(1 << 20):
                if self._loses(chunk):
                    losing.set()
                far.sendall(chunk)
        _end(near, far)

    def _answers(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := far.recv(1 << 20):
                if losing.is_set():
                    break
                near.sendall(chunk)
        _end(near, far)

    def _loses(self, chunk: bytes) -> bool:
        verb = next((verb for sha, verb in self._shas.items() if sha in chunk), None)
        if verb is None:
            return False
        with self._mutex:
            self._seen[verb] += 1
            if self._seen[verb] % self._every:
                return False
            self.lost[verb] += 1
        return True


def _end(*ends: socket.socket) -> None:
    for each in ends:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
