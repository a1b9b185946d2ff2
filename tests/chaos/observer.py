"""The outside observer: a small server that writes down every effect in the order in which it receives of them.

Run it as ``python -m tests.chaos.observer FILE``; it prints its port. A step's run opens a connection, says ``begin``,
and keeps it open until its ``end``; the kernel closes it when the process dies, so the observer sees deaths too
(``gone``). Each message is answered, so what a step does after an answer comes after it in the file.

Two runs are beside each other when one begins while the connection of the other is open and its process lives. That is
all the judge needs: no clock of one process is compared with that of another.

It is also the target of irreversible steps: it keeps posts by marker and answers whoever looks for one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

#: Bytes of one message.
_LINE = 64 * 1024


class Observer:
    """Keeps what is open, and appends to the file. One thread, so the file's order is the order of events."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._runs = 0
        self._posts: Counter[str] = Counter()
        #: By tenant queue: the open runs and their processes.
        self._open: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self._late: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        self._runs += 1
        run, queue = self._runs, ""
        try:
            while line := await reader.readline():
                message = json.loads(line)
                match message["event"]:
                    case "begin":
                        queue = message["queue"]
                        message["beside"] = self._beside(queue)
                        self._open[queue][run] = message["pid"]
                        self._write(run, message)
                    case "end":
                        self._open[queue].pop(run, None)
                        self._write(run, message)
                    case "find":
                        message["found"] = self._posts[message["marker"]]
                    case "post":
                        # Apart from the connection: the post comes into effect even when its sender is dead by then.
                        late = asyncio.create_task(self._post(run, message, writer))
                        self._late.add(late)
                        late.add_done_callback(self._late.discard)
                        continue
                _answer(writer, message)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # killed in the middle of a line: noted below like any death
        finally:
            self._gone(queue, run)
            writer.close()

    async def _post(self, run: int, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(message["before"])
        self._posts[message["marker"]] += 1
        self._write(run, message)
        await asyncio.sleep(message["after"])
        if not writer.is_closing():
            _answer(writer, message)

    def _beside(self, queue: str) -> list[int]:
        """The runs of the queue that are still alive. A death whose end of file is not read yet is noted first."""
        for run, pid in list(self._open[queue].items()):
            if not _lives(pid):
                self._gone(queue, run)
        return list(self._open[queue])

    def _gone(self, queue: str, run: int) -> None:
        if self._open[queue].pop(run, None) is not None:
            self._write(run, {"event": "gone", "queue": queue})

    def _write(self, run: int, message: dict[str, Any]) -> None:
        noted = {"run": run, "at": time.monotonic(), "wall": time.time(), **message}
        self._file.write(json.dumps(noted).encode() + b"\n")


def _lives(pid: int) -> bool:
    """Whether the process runs; a stopped one lives, a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _answer(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps({"found": message.get("found")}).encode() + b"\n")


async def _main(path: Path) -> None:
    observer = Observer(path)
    server = await asyncio.start_server(observer.serve, "127.0.0.1", 0, limit=_LINE, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: None if os.read(0, 64) else ended.set())
    await ended.wait()


if __name__ == "__main__":  # ends when its standard input closes, so that no death of the controller leaves it behind
    asyncio.run(_main(Path(sys.argv[1])))
