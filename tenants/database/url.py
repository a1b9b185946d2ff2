"""Parses and checks the database's URL, by SQLAlchemy's rules.

Invariants
- A fault never quotes a part of the URL: in one whose password is not percent-encoded, a piece of the password is
  parsed as host, port or database. Such a URL is refused, so no later message can show that piece either.
- Nothing in the URL is ignored: parameters that libpq does not know, or that onelane sets itself, are faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

#: Schemes of PostgreSQL URLs, with or without a driver, which ours replaces.
_POSTGRES = ("postgresql", "postgres")
_ENCODE = "percent-encode special characters of the user name and the password (@ is %40, / is %2F, : is %3A)"
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_SETTING = re.compile(r"(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.-]*)=((?:\\.|[^\s\\])*)(?:\s+|$)")
#: Parameters that may be given once for each host.
_REPEATED = ("host", "port", "options")


class InvalidDatabaseUrl(ValueError):
    """The URL cannot be used; the message quotes no part of it."""


def parse(text: str) -> URL:
    """The URL with onelane's driver; several hosts in libpq's form (`h1:5432,h2:5432`) are supported.

    Raises:
        InvalidDatabaseUrl: it cannot be used.
    """
    name, separator, rest = text.partition("://")
    kind = name.split("+")[0].lower()
    if not separator or kind not in ("sqlite", *_POSTGRES):
        raise InvalidDatabaseUrl("it must start with sqlite:/// or postgresql://")
    if re.search(r"[\x00-\x20\x7f]", rest) and kind != "sqlite":
        raise InvalidDatabaseUrl(f"it has a space or a control character in it; {_ENCODE}")
    return _sqlite(rest) if kind == "sqlite" else _postgres(rest)


def _sqlite(rest: str) -> URL:
    if not rest.startswith("/"):
        raise InvalidDatabaseUrl("it must be like sqlite:///file.db or sqlite:////folder/file.db")
    if "?" in rest:
        raise InvalidDatabaseUrl("SQLite's URL takes no options after a question mark (%3F is one in a file's name)")
    url = make_url(f"sqlite://{rest}")
    if url.database in (None, "", ":memory:"):
        raise InvalidDatabaseUrl("it must name a file: several processes open the database")
    return url


def _postgres(rest: str) -> URL:
    credentials, at, place = rest.rpartition("@")
    if "@" in credentials:
        raise InvalidDatabaseUrl(f"it has more than one @; {_ENCODE}")
    # SQLAlchemy's rule: a slash may be in the password, not in the user name.
    if "/" in credentials.partition(":")[0]:
        raise InvalidDatabaseUrl(f"it has an @ where none is allowed; {_ENCODE}")
    hosts = re.split(r"[/?]", place, maxsplit=1)[0]
    after = place[len(hosts) :]
    if "?" in after:
        _check_query(after.partition("?")[2])
    url = _assembled(credentials + at, hosts, after)
    _check_names(url)
    return url


def _assembled(credentials: str, hosts: str, after: str) -> URL:
    many = hosts.split(",")
    pairs = [_host_and_port(each) for each in many]
    try:
        if len(many) == 1:
            return make_url(f"postgresql+psycopg://{credentials}{hosts}{after}")
        url = make_url(f"postgresql+psycopg://{credentials}{after}")
    except (ValueError, ArgumentError):
        raise InvalidDatabaseUrl(f"it must be like postgresql://user:password@host:5432/name; {_ENCODE}") from None
    if {"host", "port"} & set(url.query):
        raise InvalidDatabaseUrl("it names hosts or ports twice: before the database's name and after the ?")
    names, ports = zip(*pairs, strict=True)
    return url.update_query_dict({"host": ",".join(names), "port": ",".join(ports)})


def _host_and_port(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(\d*))?", text)
    if found is None:
        raise InvalidDatabaseUrl(f"after the user it must have host:port, several with commas; {_ENCODE}")
    host, port = found[1] or found[2] or "", found[3] or ""
    if host and not _HOST.fullmatch(host):
        raise InvalidDatabaseUrl(f"the host's name has a character that no host's name has; {_ENCODE}")
    if port and not 0 < int(port) < 65536:
        raise InvalidDatabaseUrl("the port must be a number from 1 to 65535")
    return host, port


def _check_query(query: str) -> None:
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise InvalidDatabaseUrl("after the ? it must have name=value, several with & between them")


def _check_names(url: URL) -> None:
    from psycopg.pq import Conninfo

    known = {each.keyword.decode() for each in Conninfo.get_defaults()}
    for name, value in url.query.items():
        if name not in known:
            raise InvalidDatabaseUrl("after the ? it has a name that is no connection parameter of PostgreSQL's libpq")
        if not isinstance(value, str) and name not in _REPEATED:
            raise InvalidDatabaseUrl(f"it has {name} twice after the ?")


def options_of(url: URL, environment: Mapping[str, str], ours: Mapping[str, Any]) -> dict[str, str]:
    """Server settings from the URL's `options`, or else from `PGOPTIONS`: `-c name=value` or `--name=value` each.

    Args:
        url: as `parse` returned it.
        environment: of the process.
        ours: names that onelane sets itself.

    Raises:
        InvalidDatabaseUrl: there is anything else, or a name that onelane sets.
    """
    where = "options" if "options" in url.query else "PGOPTIONS"
    given = url.query.get("options", environment.get("PGOPTIONS", ""))
    found = dict(_settings((given if isinstance(given, str) else " ".join(given)).strip(), where))
    for name in found:
        if name in ours:
            raise InvalidDatabaseUrl(f"{where} sets {name}, which onelane sets itself; leave it out")
    return found


def _settings(text: str, where: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _SETTING.match(text, at)
        if match is None:
            raise InvalidDatabaseUrl(f"{where} may hold only -c name=value, several with spaces between them")
        yield match[1].replace("-", "_").lower(), re.sub(r"\\(.)", r"\1", match[2])
        at = match.end()
