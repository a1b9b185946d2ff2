"""The browser's only network access: a forward proxy on loopback that checks every connection.

A Playwright route handler does not see redirects, service workers, or the address that Chromium finally connects to. A
proxy sees every connection, and connects to the address that it has checked. Chromium sends everything here, including
loopback, and resolves no names (`browser.py`).

Invariants
- Each connection carries one request or one tunnel, to one origin, which `safe_url.check_host` has checked.
- It listens on loopback in a thread of its own, until its `with` block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Collection
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ..errors import UnsafeUrl
from .safe_url import HostNotFound, ResolvedUrl, check_host, check_url

_log = logging.getLogger(__name__)

#: Header of the proxy's own answers: ``unsafe``, ``unreachable`` or ``unreadable``.
REFUSED_HEADER = "x-egress-refused"

_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_HEAD_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_HOP_HEADERS = (b"connection:", b"proxy-connection:", b"proxy-authorization:", b"keep-alive:", b"host:")


class EgressProxy:
    """Run it with `with`, and give `url` to the browser."""

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._allowed_hosts = tuple(allowed_hosts)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="egress-proxy", daemon=True)
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._port = 0
        self._stop = asyncio.Event()
        # asyncio has only weak references to tasks: one that waits for a silent origin could be garbage-collected.
        self._open: set[asyncio.Task[object]] = set()
        #: The last refused requests and their reasons, oldest first.
        self.refusals: deque[str] = deque(maxlen=50)

    @property
    def url(self) -> str:
        """The proxy's address for the browser."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has already ended
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()  # does not wait for a silent name server

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=_HEAD_BYTES)
        except OSError as error:
            self._failure = error
            self._ready.set()
            return
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        # More than once: asyncio.wait_for can swallow a cancellation that comes as it ends.
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            for one in rest:
                one.cancel()
            await asyncio.wait(rest, timeout=0.2)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None, "streams run their callback as a task"
        self._open.add(current)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError) as error:
            _log.debug("egress connection ended: %r", error)
        except asyncio.CancelledError:
            _log.debug("egress connection ended with its browser")
        finally:
            self._open.discard(current)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)
        request_line, _, headers = head.partition(b"\r\n")
        try:
            method, target, _version = request_line.decode("latin-1").split(" ")
            resolved = await asyncio.to_thread(self._check, method, target)
        except HostNotFound as error:
            return await _answer(writer, "502 Bad Gateway", "unreachable", str(error))
        except UnsafeUrl as error:
            self.refusals.append(str(error))
            return await _answer(writer, "403 Forbidden", "unsafe", str(error))
        except ValueError:
            return await _answer(writer, "400 Bad Request", "unreadable", "the proxy could not read this request")
        try:
            upstream_reader, upstream = await _connect(resolved)
        except OSError as error:
            return await _answer(writer, "502 Bad Gateway", "unreachable", f"{resolved.url} cannot be reached: {error}")
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream.write(_origin_request(method, target, headers))
            await _join(reader, writer, upstream_reader, upstream)
        finally:
            upstream.close()

    def _check(self, method: str, target: str) -> ResolvedUrl:
        if method == "CONNECT":
            parts = urlsplit(f"//{target}")
            if not parts.hostname or not parts.port:
                raise ValueError(f"CONNECT {target}")
            return check_host(parts.hostname, parts.port, self._allowed_hosts)
        return check_url(target, self._allowed_hosts)


async def _connect(resolved: ResolvedUrl) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failure: OSError = OSError("no address")
    for address in resolved.addresses:
        try:
            return await asyncio.wait_for(asyncio.open_connection(address, resolved.port), _CONNECT_SECONDS)
        except OSError as error:  # TimeoutError is one
            failure = error
    raise failure


def _origin_request(method: str, target: str, headers: bytes) -> bytes:
    """The request in origin form. The connection closes after it, so that the next request is checked again."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kept = [line for line in headers.split(b"\r\n") if line and not line.lower().startswith(_HOP_HEADERS)]
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"Host: " + parts.netloc.encode("latin-1"), *kept]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream: asyncio.StreamWriter,
) -> None:
    """Copy bytes both ways until the origin closes; the browser may stop sending earlier."""
    sending = asyncio.ensure_future(_pipe(reader, upstream))
    try:
        await _pipe(upstream_reader, writer)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        sink.write(chunk)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()


async def _answer(writer: asyncio.StreamWriter, status: str, refused: str, message: str) -> None:
    body = message.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"{REFUSED_HEADER}: {refused}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
