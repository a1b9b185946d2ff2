"""The data directory of `onelane up`: its owner, keys and ports.

Invariants: one `up` at a time owns a directory, by a file lock that ends with its process, so no stale lock remains.
Keys are made once and readable by their owner only. A restart finds the same keys and ports.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

_OWNER_FILE = "up.pid"
_PORTS_FILE = "ports.json"
#: The version of the directory's layout; without this file it is 1.
_FORMAT_FILE = "format"
FORMAT = 1


class FolderBusy(Exception):
    """Another `onelane up` owns the directory; `pid` is its process, if known."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(
            f"another onelane is running on {path} (process {pid or 'unknown'}): stop that one, "
            "or give this one another --data-dir"
        )
        self.pid = pid


class FolderUnusable(Exception):
    """The directory cannot be made or written to."""


def why_not_writable(directory: Path) -> str | None:
    """Why this user cannot make files there; None where it can.

    It creates a directory and removes it again. `os.access` checks the mode alone, so for root it would be wrong about
    `/proc`.
    """
    if not directory.is_dir():
        return "it is not a directory"
    try:
        with tempfile.TemporaryDirectory(prefix=".onelane-", dir=directory):
            return None
    except OSError as error:
        return error.strerror or str(error)


class DataFolder:
    """The files that `up` and the command-line client share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Create the directory, for its owner only.

        Raises:
            FolderUnusable: it cannot be made or written to.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # a file has the name; the check below says so
        except OSError as error:
            raise FolderUnusable(
                f"the data directory {self.path} cannot be made: {error.strerror}; set --data-dir or ONELANE_DATA_DIR "
                "to a directory that this user can make"
            ) from None
        reason = why_not_writable(self.path)
        if reason is not None:
            raise FolderUnusable(
                f"the data directory {self.path} cannot be written to: {reason}; set --data-dir or ONELANE_DATA_DIR "
                "to another"
            )
        self._check_format()

    def _check_format(self) -> None:
        path = self.path / _FORMAT_FILE
        try:
            kept = path.read_text("utf-8", "replace").strip()
        except FileNotFoundError:
            return
        except OSError as error:
            raise FolderUnusable(f"{path} cannot be read: {error.strerror}") from None
        if kept != str(FORMAT):
            raise FolderUnusable(
                f"the data directory {self.path} has the layout of another release of onelane ({kept[:20]!r}; this one "
                f"uses {FORMAT}): start that release, or give this one another --data-dir"
            )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Own the directory inside the `with`; the system releases it even after kill -9.

        Raises:
            FolderBusy: another process owns it.
        """
        descriptor = os.open(self.path / _OWNER_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderBusy(self.path, self.owner()) from None
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            self._write_format()
            yield
        finally:
            os.close(descriptor)

    def _write_format(self) -> None:
        path = self.path / _FORMAT_FILE
        if not path.exists():
            half = path.with_suffix(f".{os.getpid()}")
            half.write_text(f"{FORMAT}\n")
            os.replace(half, path)

    def owner(self) -> int | None:
        """The process in the owner file, or None."""
        try:
            return int((self.path / _OWNER_FILE).read_text())
        except (OSError, ValueError):
            return None

    def key(self, name: str) -> str:
        """The key in ``{name}.key``; it is made at its first use, atomically, with mode 600."""
        path = self.path / f"{name}.key"
        kept = self.kept_key(name)
        if kept:
            return kept
        from tenants.secrets.sealing import new_key

        made = new_key()
        half = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(made + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(half, path)
        return made

    def kept_key(self, name: str) -> str | None:
        """The key, or None if there is none or it cannot be read."""
        try:
            return (self.path / f"{name}.key").read_text().strip() or None
        except OSError:
            return None

    def ports(self) -> dict[str, int]:
        """The ports of the last start by name (`api`, `demo_blog`, `offline_model`)."""
        try:
            kept = json.loads((self.path / _PORTS_FILE).read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict):
            return {}
        return {name: port for name, port in kept.items() if isinstance(port, int) and 0 < port < 65536}

    def keep_ports(self, ports: Mapping[str, int]) -> None:
        half = self.path / f"{_PORTS_FILE}.{os.getpid()}"
        half.write_text(json.dumps(dict(ports), indent=2) + "\n")
        os.replace(half, self.path / _PORTS_FILE)
