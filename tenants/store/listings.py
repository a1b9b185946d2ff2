"""Lists by page: newest first, with opaque cursors that stay right while rows are added.

A cursor holds the last row's place in an order that never changes (a growing `seq`, or a UUIDv7 id), so a page never
repeats or skips a row because of new ones.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, Select

from ..errors import Fault, InvalidInput


class Page(NamedTuple):
    """Rows, and the cursor of the next page (None at the end)."""

    rows: Sequence[RowMapping]
    next_cursor: str | None


def encode_place(place: int | str) -> str:
    return base64.urlsafe_b64encode(json.dumps([1, place]).encode()).decode().rstrip("=")


def decode_place(cursor: str, kind: type[int | str]) -> Any:
    """The place in a cursor.

    Raises:
        InvalidInput: it is not one of ours.
    """
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
        place = decode_place(cursor, order.type.python_type)
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
