"""The server's URL. It is checked here only, and errors quote nothing of it, because it may have a password.

A cluster's URL is `redis+cluster://user:password@host:port,host:port/0?option=value` (or `rediss+cluster` for TLS). Its
credentials, database 0 and options hold for every node, also for nodes that are found later.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import redis

from .errors import InvalidEntry

SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
#: Every allowed scheme.
ALL_SCHEMES = ("redis", "rediss", "unix", *SCHEMES)
_ENCODE = "percent-encode special characters of the password (@ is %40, / is %2F, : is %3A, # is %23, ? is %3F)"
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\s]*)(?::(\d+))?")


def is_cluster_url(url: str) -> bool:
    """Whether the URL is one of a cluster: `redis+cluster://host:port,host:port` (or `rediss+cluster`)."""
    return url.partition("://")[0] in SCHEMES


def node_urls(url: str) -> list[str]:
    """The URL of each server: several for a cluster, otherwise the URL itself.

    Raises:
        InvalidEntry: as `check_url`.
    """
    check_url(url)
    if not is_cluster_url(url):
        return [url]
    scheme, credentials, hosts, query = _parts(url)
    return [f"{SCHEMES[scheme]}://{credentials}{host}{query}" for host in hosts.split(",")]


def at_host(node_url: str, host: str, port: int) -> str:
    """The URL of another node of the same cluster: a URL of `node_urls` with another host and port."""
    scheme, credentials, _, query = _parts(node_url)
    return f"{scheme}://{credentials}{f'[{host}]' if ':' in host else host}:{port}{query}"


def check_url(url: str) -> None:
    """Refuses an invalid URL, so that no part of it is ignored or misread.

    Raises:
        InvalidEntry: with a text that quotes nothing of the URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ALL_SCHEMES:
        raise InvalidEntry(f"url: it must start with one of {', '.join(f'{each}://' for each in ALL_SCHEMES)}")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] or authority.count("@") > 1 or "#" in rest:
        raise InvalidEntry(f"url: it has a # or more than one @, or an @ stands where none can stand; {_ENCODE}")
    if scheme == "unix":
        _try(url)
        return
    hosts, path = authority.rpartition("@")[2], urlsplit(url).path.strip("/")
    if scheme in SCHEMES and path not in ("", "0"):
        raise InvalidEntry("url: a cluster has only database 0")
    if scheme in SCHEMES and not all(hosts.split(",")):
        raise InvalidEntry("url: it names no host, or has a comma too many")
    if path and not path.isdecimal():
        raise InvalidEntry("url: after the host it may have only the database's number")
    many = hosts.split(",") if scheme in SCHEMES else [hosts]
    for host in many:
        found = _HOST.fullmatch(host)
        if found is None or not 0 < int(found[1] or 6379) < 65536:
            raise InvalidEntry(f"url: each host must be like host:port; {_ENCODE}")
    scheme, credentials, _, query = _parts(url)
    _try(f"{SCHEMES.get(scheme, scheme)}://{credentials}{many[0]}{query}")


def _parts(url: str) -> tuple[str, str, str, str]:
    """Scheme, credentials with their @, hosts, and the options with their question mark."""
    scheme, _, rest = url.partition("://")
    before, mark, query = rest.partition("?")
    credentials, at, hosts = before.partition("/")[0].rpartition("@")
    return scheme, credentials + at, hosts, mark + query


def _try(node_url: str) -> None:
    """Has redis-py parse the URL and make a connection, without opening it."""
    try:
        redis.ConnectionPool.from_url(node_url).make_connection()
    except (ValueError, TypeError, redis.RedisError):
        raise InvalidEntry(
            f"url: after the ? it has a name or a value that redis-py does not take; {_ENCODE}"
        ) from None
