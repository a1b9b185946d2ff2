"""The application on a real server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from orchestrator.runtime import Runtime
from orchestrator.web.app import create_app
from orchestrator.web.http.http_protocol import server_options


class _Started(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@contextlib.contextmanager
def serving(runtime: Runtime, listener: socket.socket) -> Iterator[None]:
    """The application as `onelane serve` runs it, on a socket that listens."""
    options = server_options(runtime.settings)
    server = _Started(uvicorn.Config(create_app(runtime), log_level="warning", lifespan="on", **options))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    assert server.listens.wait(60)
    yield
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    listener.close()
