"""Lists by page: newest first, with opaque cursors that stay right while rows are added.

A cursor holds the last row's place in an order that never changes (a growing `seq`, or a UUIDv7 id), so a page never
repeats or skips a row because of new ones.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, Select

from ..errors import Fault, InvalidInput


class Page(NamedTuple):
    """Rows, and the cursor of the next page (None at the end)."""

    rows: Sequence[RowMapping]
    next_cursor: str | None


#: What cursors look like, by the kind of place that they hold. Every text of the form names a place, so that the API's
#: description can say exactly which cursors are taken.
CURSOR_PATTERNS: dict[type[int | str], str] = {
    int: r"^n(0|[1-9][0-9]{0,17})$",
    str: r"^t([0-9a-f]{2}){1,2000}$",
}
_FORMS = {kind: re.compile(pattern.replace("$", r"\Z")) for kind, pattern in CURSOR_PATTERNS.items()}


def encode_place(place: int | str) -> str:
    return f"n{place}" if isinstance(place, int) else f"t{place.encode().hex()}"


def decode_place(cursor: str, kind: type[int | str]) -> Any:
    """The place in a cursor.

    Raises:
        InvalidInput: it is not one of ours.
    """
    if _FORMS[kind].match(cursor):
        if kind is int:
            return int(cursor[1:])
        return bytes.fromhex(cursor[1:]).decode("utf-8", "ignore").replace("\x00", "")
    return _decode_former_place(cursor, kind)


def _decode_former_place(cursor: str, kind: type[int | str]) -> Any:
    """Of cursors as version 0.1 gave them, which may be in use while it is replaced."""
    try:
        version, place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        version, place = None, None
    odd = version != 1 or type(place) is not kind
    odd = odd or (isinstance(place, int) and abs(place) >= 2**63) or (isinstance(place, str) and "\x00" in place)
    if odd:
        message = "it is not one that this API gave; use next_cursor as it came"
        raise InvalidInput(f"cursor: {message}", (Fault(("cursor",), message),))
    return place


def newest_first(
    connection: Connection, statement: Select[Any], order: ColumnElement[Any], *, limit: int, cursor: str | None
) -> Page:
    """One page of `statement`, ordered by a column that grows with time, and that it selects.

    Raises:
        InvalidInput: the cursor is not one of ours.
    """
    return _page(connection, statement, order, limit, cursor, descending=True)


def by_name(
    connection: Connection, statement: Select[Any], order: ColumnElement[Any], *, limit: int, cursor: str | None
) -> Page:
    """The same in rising order of a name, for things that have no time of their own.

    Raises:
        InvalidInput: the cursor is not one of ours.
    """
    return _page(connection, statement, order, limit, cursor, descending=False)


def _page(
    connection: Connection,
    statement: Select[Any],
    order: ColumnElement[Any],
    limit: int,
    cursor: str | None,
    *,
    descending: bool,
) -> Page:
    if cursor is not None:
        # Some types of text columns know no Python type of theirs.
        place = decode_place(cursor, int if order.type.python_type is int else str)
        statement = statement.where(order < place if descending else order > place)
    statement = statement.order_by(order.desc() if descending else order.asc()).limit(limit + 1)
    rows = connection.execute(statement).mappings().all()
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], encode_place(rows[limit - 1][order]))


def after_prefix(prefix: str) -> str | None:
    """The least text that is greater than all that begin with `prefix`: a range uses the index, LIKE may not."""
    while prefix:
        following = ord(prefix[-1]) + 1
        if following == 0xD800:  # surrogates are no characters
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None
