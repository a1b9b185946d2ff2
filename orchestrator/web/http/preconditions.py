"""`If-Match`: the version of a draft that the caller has read."""

from __future__ import annotations

import re

from .problems import Problem

_VERSION = re.compile(r'"?(\d{1,18})"?', re.ASCII)


def wanted_version(header: str | None) -> int | None:
    """The version in `If-Match`; None for ``*`` and where there is none.

    Raises:
        Problem: it is not a version, and so matches none (RFC 9110).
    """
    if header is None or header.strip() == "*":
        return None
    found = _VERSION.fullmatch(header.strip())
    if found is None:
        raise Problem("stale_version", f'If-Match is {header.strip()!r}; that is not a version. Send "<version>"')
    return int(found[1])
