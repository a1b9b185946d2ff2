"""`If-Match`: the version of a draft that the caller has read."""

from __future__ import annotations

import re

from .problems import Problem

_VERSION = re.compile(r'"?(\d{1,18})"?', re.ASCII)


def wanted_version(header: str | None) -> int | None:
    """The version in `If-Match`; None for ``*`` and where there is none.

    Raises:
        Problem: it looks like no version, and so matches none, as RFC 9110 has it.
    """
    if header is None or header.strip() == "*":
        return None
    found = _VERSION.fullmatch(header.strip())
    if found is None:
        raise Problem("stale_version", f'If-Match is {header.strip()!r}; no version looks like that. Send "<version>"')
    return int(found[1])
