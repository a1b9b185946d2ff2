"""The limits of connections, and how many are open. The limit for each address holds before a request is read."""

from __future__ import annotations

import ipaddress
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .problems import Problem
from .rate_limits import network_of

if TYPE_CHECKING:
    from ...settings import Settings

#: File descriptors that the process reserves for its database, Redis and itself.
RESERVED_FILES = 256


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of one server. 0 for `per_address` or `total` means no limit."""

    max_header_bytes: int
    max_headers: int
    header_seconds: float
    body_seconds: float
    idle_seconds: float
    send_seconds: float
    per_address: int
    total: int
    trusted_proxies: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            max_header_bytes=settings.max_header_bytes,
            max_headers=settings.max_headers,
            header_seconds=settings.header_timeout_seconds,
            body_seconds=settings.body_timeout_seconds,
            idle_seconds=settings.idle_timeout_seconds,
            send_seconds=settings.send_timeout_seconds,
            per_address=settings.max_connections_per_address,
            total=0 if soft == resource.RLIM_INFINITY else max(soft - RESERVED_FILES, soft // 2),
            trusted_proxies=settings.trusted_proxies,
        )


class ConnectionCounts:
    """The number of open connections, in total and by address. Used by the event loop alone."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in limits.trusted_proxies]
        self._by_network = Counter[str]()
        self._total = 0

    def add(self, address: str | None) -> Problem | None:
        """Count a connection; returns the refusal if there are too many."""
        network = network_of(address)
        self._total += 1
        self._by_network[network] += 1
        if self._limits.total and self._total > self._limits.total:
            return refusal("unavailable", "the server has as many connections as it can hold")
        most = self._limits.per_address
        if most and self._by_network[network] > most and not self._is_trusted(address):
            return refusal("rate_limited", f"more than {most} connections are open from this address")
        return None

    def remove(self, address: str | None) -> None:
        network = network_of(address)
        self._total -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def _is_trusted(self, address: str | None) -> bool:
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        return any(found in network for network in self._trusted)


def refusal(code: str, detail: str) -> Problem:
    """A problem that ends its connection."""
    headers = {"Connection": "close"}
    if code in ("rate_limited", "unavailable"):
        headers["Retry-After"] = "1"
    return Problem(code, detail, headers=headers)
