"""Protection against server-side request forgery: which URLs this installation may open.

Invariants
- Addresses are checked, not names: any spelling of a host (decimal, octal, IPv4 inside IPv6, full-width digits) is
  resolved first, and each of its addresses is checked.
- The caller connects to `ResolvedUrl.addresses` and does not resolve again: a change of the name's address after the
  check has no effect.
- One check covers one hop: a caller that follows redirects checks each of them.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from ..errors import UnsafeUrl

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Collection[str]]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Browsers drop tabs and newlines and read "\" as "/", Python does not: two readings of one URL are refused.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
# Prefixes whose addresses contain the IPv4 address that the packet finally reaches.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")


class HostNotFound(UnsafeUrl):
    """The name did not resolve. Unlike its parent class it is retried: a name server may fail for a while."""

    permanent = False


@dataclass(frozen=True, slots=True)
class ResolvedUrl:
    """A URL that may be opened, and its checked addresses; connect only to these."""

    url: str
    host: str
    port: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Allowed:
    """An entry of the allowed hosts: a name or a network, on one port or on all."""

    host: str | None
    network: Network | None
    port: int | None

    def covers(self, host: str, port: int, address: Address) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        return self.host == host


def check_url(url: str, allowed_hosts: Collection[str], *, resolve: Resolve | None = None) -> ResolvedUrl:
    """Check a URL; `allowed_hosts` lists hosts that may be reached although they are not public.

    An entry is ``host``, ``host:port``, an address, ``address:port``, ``[v6]:port`` or a network such as
    ``10.1.0.0/16``. A name covers every address that it resolves to; an address or network covers every name that
    resolves into it.

    Raises:
        UnsafeUrl: the URL is malformed, carries user info, or leads to an address that is not public or allowed.
        HostNotFound: its host did not resolve.
        ValueError: an entry of `allowed_hosts` is malformed.
    """
    host, port = _host_and_port(url)
    return check_host(host, port, allowed_hosts, url=url, resolve=resolve)


def check_host(
    host: str, port: int, allowed_hosts: Collection[str], *, url: str | None = None, resolve: Resolve | None = None
) -> ResolvedUrl:
    """`check_url` for a host and port, such as those of a proxy's CONNECT."""
    shown = url or f"{host}:{port}"
    name = _normal_host(host, shown)
    entries = parse_allowed_hosts(tuple(allowed_hosts))
    try:
        literal: Address | None = ipaddress.ip_address(name)
    except ValueError:
        literal = None
    found = (str(literal),) if literal else tuple(dict.fromkeys((resolve or resolve_host)(name, port)))
    if not found:
        raise HostNotFound(f"{shown}: the host {name!r} has no address")
    for text in found:
        address = ipaddress.ip_address(text)
        if not _is_public(address) and not any(entry.covers(name, port, address) for entry in entries):
            raise UnsafeUrl(
                f"{shown} leads to {text}, which is not a public address; "
                f"add {name}:{port} to ONELANE_ALLOWED_HOSTS if it is meant to be reached"
            )
    return ResolvedUrl(shown, name, port, found)


@lru_cache(maxsize=64)
def parse_allowed_hosts(entries: tuple[str, ...]) -> tuple[_Allowed, ...]:
    """The parsed entries of an allow-list; settings call it at start, so that a malformed entry is reported then.

    Raises:
        ValueError: an entry is malformed; the message quotes it.
    """
    return tuple(_parse_entry(entry) for entry in entries)


def _parse_entry(entry: str) -> _Allowed:
    text = entry.strip()
    fault = ValueError(f"allowed host {entry!r}: expected host, host:port, address or network/bits")
    if not text or "@" in text or _AMBIGUOUS.search(text):
        raise fault
    try:
        return _Allowed(None, ipaddress.ip_network(text, strict=False), None)
    except ValueError:
        if "/" in text:
            raise fault from None
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise fault from None
    if not host:
        raise fault
    try:
        return _Allowed(None, ipaddress.ip_network(host), port)
    except ValueError:
        return _Allowed(_normal_host(host, entry), None, port)


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL.

    Raises:
        UnsafeUrl: it is malformed.
    """
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError as error:
        raise UnsafeUrl(f"{url!r} is not a URL: {error}") from None


def _host_and_port(url: str) -> tuple[str, int]:
    if _AMBIGUOUS.search(url):
        raise UnsafeUrl(f"{url!r}: spaces, control characters and backslashes do not belong in a URL")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UnsafeUrl(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise UnsafeUrl(f"{url!r}: only http and https URLs are opened")
    if "@" in parts.netloc:
        raise UnsafeUrl("the URL carries a user name or password; give credentials with the session instead")
    if not parts.hostname or port == 0:
        raise UnsafeUrl(f"{url!r} names no host and port that can be opened")
    return parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def _normal_host(host: str, shown: str) -> str:
    """Lower case, IDNA, no final dot; an address in an old spelling becomes the plain one."""
    text = host.strip("[]").lower().removesuffix(".")
    if "%" in text or not text:
        raise UnsafeUrl(f"{shown}: {host!r} is not a host that can be opened")
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            raise UnsafeUrl(f"{shown}: {host!r} is not an IPv6 address") from None
    try:
        name = text.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise UnsafeUrl(f"{shown}: {host!r} is not a valid host name") from None
    last = name.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        # The URL standard reads every host with a numeric last label as IPv4, in the spellings of inet_aton.
        try:
            return socket.inet_ntoa(socket.inet_aton(name))
        except OSError:
            raise UnsafeUrl(f"{shown}: {host!r} is not an IPv4 address") from None
    return name


def resolve_host(name: str, port: int) -> Collection[str]:
    """The addresses of a name, by this host's resolver.

    Raises:
        HostNotFound: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostNotFound(f"the host {name!r} could not be resolved: {error}") from None
    return [str(entry[4][0]) for entry in found]


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and (address in _NAT64 or address in _IPV4_COMPATIBLE):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address.is_site_local or address.teredo:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified
