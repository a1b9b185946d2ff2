"""A channel that takes alerts on loopback, with a secret in its address."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import SecretStr

SECRET = "tok-9f8e7d6c5b4a"


class Receiver:
    """An HTTP server on loopback that keeps what comes, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self.tries = 0
        self._new = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(body)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def take(self, body: bytes) -> None:
        with self._new:
            self.tries += 1
            if self.status < 400:
                self.got.append(json.loads(body))
                self.raw.append(body.decode())
            self._new.notify_all()

    def wait(self, title: str, seconds: float = 60.0) -> dict[str, Any]:
        """The first message whose title holds this."""

        def found() -> dict[str, Any] | None:
            return next((each for each in self.got if title in each["title"]), None)

        with self._new:
            assert self._new.wait_for(lambda: found() is not None, seconds), [each["title"] for each in self.got]
        message = found()
        assert message is not None
        return message

    @property
    def url(self) -> SecretStr:
        return SecretStr(f"json://robot:{SECRET}@127.0.0.1:{self._server.server_port}/hooks/{SECRET}-path")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
