"""A TCP proxy with commands: cuts, refuses and holds connections on command.

Run it as ``python -m tests.chaos.proxy ROUTES``, with routes as JSON: ``{name: port of the target}``. It prints the
ports that it listens on, as JSON by name, and then obeys lines on standard input:

    {"route": name, "do": "cut"}                 every open connection ends with a reset, at any byte
    {"route": name, "do": "refuse"}              the same, and new ones meet it too, until `heal`
    {"route": name, "do": "hold"}                no byte passes, nothing ends: a silent partition, until `heal`
    {"route": name, "do": "deafen"}              what the target answers is held back; what is sent to it passes
    {"route": name, "do": "repair"}

Whoever must know when an order holds adds ``"report": true`` to it, and gets the line ``done``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys

_CHUNK = 64 * 1024
#: SO_LINGER with zero seconds: close sends a reset, as a crashed host's network does.
_RESET = struct.pack("ii", 1, 0)


class Route:
    """One target and the connections to it."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._refuses = False
        self._passes = asyncio.Event()
        self._passes.set()
        self._answers = asyncio.Event()
        self._answers.set()

    def obey(self, what: str) -> None:
        match what:
            case "cut":
                self._reset_all()
            case "refuse":
                self._refuses = True
                self._reset_all()
            case "hold":
                self._passes.clear()
            case "deafen":
                self._answers.clear()
            case "heal":
                self._refuses = False
                self._passes.set()
                self._answers.set()
            case _:
                raise ValueError(f"there is no attack {what!r}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        pair = {writer, far_writer}
        self._open |= pair
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer, self._answers))
        finally:
            self._open -= pair
            for each in pair:
                each.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: asyncio.Event | None = None
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._passes.wait()
                if opened is not None:
                    await opened.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            _reset(writer)

    def _reset_all(self) -> None:
        for writer in list(self._open):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            return  # it is closed already
    writer.transport.abort()


async def _main(targets: dict[str, int]) -> None:
    routes = {name: Route(target) for name, target in targets.items()}
    ports = {}
    servers = []
    for name, route in routes.items():
        server = await asyncio.start_server(route.serve, "127.0.0.1", 0, backlog=256)
        ports[name] = server.sockets[0].getsockname()[1]
        servers.append(server)
    print(json.dumps(ports), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        routes[order["route"]].obey(order["do"])
        if order.get("tell"):
            print("done", flush=True)


if __name__ == "__main__":  # ends when its standard input closes
    asyncio.run(_main(json.loads(sys.argv[1])))
