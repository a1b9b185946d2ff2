"""The TCP ports of `onelane up`, and their replacements if another program has them."""

from __future__ import annotations

import socket
import time

#: How long to wait for a port: the process that had it may just be ending.
LINGER_SECONDS = 5.0
_NEIGHBOURS = 50


class PortBusy(Exception):
    """A required port is taken."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(what: str, host: str, port: int, *, chosen_by: str) -> None:
    """Wait shortly for a required port.

    Raises:
        PortBusy: another program has it; the message has its purpose, and `chosen_by` as the way to choose another.
    """
    if not _becomes_free(host, port):
        raise PortBusy(f"port {port} on {host}, for {what}, is taken by another program: choose one with {chosen_by}")


def choose_port(
    what: str, host: str, *, default: int, asked: int | None, last: int | None, taken: set[int], chosen_by: str
) -> int:
    """A free port: the required one, or else that of the last start, the default, or the next free one.

    `taken` are the ports chosen so far; the new one is added. `chosen_by` is as of `require_free`.

    Raises:
        PortBusy: the required port is taken, or none of the next ports is free.
    """
    if asked is not None:
        if asked in taken:
            raise PortBusy(f"port {asked} is asked for twice: choose another one for {what} with {chosen_by}")
        require_free(what, host, asked, chosen_by=chosen_by)
        taken.add(asked)
        return asked
    if last is not None and last not in taken and _becomes_free(host, last):
        taken.add(last)
        return last
    for port in range(default, min(default + _NEIGHBOURS, 65535)):
        if port not in taken and is_free(host, port):
            taken.add(port)
            return port
    raise PortBusy(
        f"no port from {default} to {default + _NEIGHBOURS} is free on {host} for {what}: choose one with {chosen_by}"
    )


def _becomes_free(host: str, port: int) -> bool:
    until = time.monotonic() + LINGER_SECONDS
    while not is_free(host, port):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)  # another process does not signal that it closed its port; bounded above
    return True


def reachable_host(host: str) -> str:
    """The host for a URL by which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104  compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
