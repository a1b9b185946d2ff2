"""Lists by page, with opaque cursors; and what most look-ups share: optional filters, and a row that must exist.

A cursor holds the last row's place in an order that never changes (a growing `seq`, a UUIDv7 id or a name), so a page
never repeats or skips a row because rows were added.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_

from ..errors import Fault, InvalidInput, NotFound


class Page(NamedTuple):
    """Rows, and the cursor of the next page (None at the end)."""

    rows: Sequence[RowMapping]
    next_cursor: str | None


#: What cursors look like, by the kind of place that they hold. Every text of the form names a place, so the API's
#: description can say exactly which cursors are valid.
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
        InvalidInput: the cursor has no valid form.
    """
    if _FORMS[kind].match(cursor):
        if kind is int:
            return int(cursor[1:])
        return bytes.fromhex(cursor[1:]).decode("utf-8", "ignore").replace("\x00", "")
    return _decode_former_place(cursor, kind)


def _decode_former_place(cursor: str, kind: type[int | str]) -> Any:
    """The place in a cursor of version 0.1, which a client may hold while the service is upgraded."""
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


def read_page(
    connection: Connection,
    statement: Select[Any],
    order: ColumnElement[Any],
    *,
    limit: int,
    cursor: str | None,
    descending: bool = True,
) -> Page:
    """One page of `statement`, ordered by a column that it selects; newest first, for a column that grows with time.

    Raises:
        InvalidInput: the cursor has no valid form.
    """
    if cursor is not None:
        # Only integer columns state their Python type reliably; every other order is by text.
        place = decode_place(cursor, int if order.type.python_type is int else str)
        statement = statement.where(order < place if descending else order > place)
    statement = statement.order_by(order.desc() if descending else order.asc()).limit(limit + 1)
    rows = connection.execute(statement).mappings().all()
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], encode_place(rows[limit - 1][order]))


def narrow(statement: Select[Any], *filters: tuple[ColumnElement[Any], Any]) -> Select[Any]:
    """The statement with `column == value` for each filter whose value is not None."""
    return statement.where(*(column == value for column, value in filters if value is not None))


def fetch_one(connection: Connection, statement: Select[Any], missing: str) -> RowMapping:
    """The statement's only row.

    Raises:
        NotFound: there is none; `missing` is the message.
    """
    found = connection.execute(statement).mappings().one_or_none()
    if found is None:
        raise NotFound(missing)
    return found


def begins_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Whether the text begins with `prefix`, as a range: a range uses the index, LIKE may not."""
    end = _after_prefix(prefix)
    return column >= prefix if end is None else and_(column >= prefix, column < end)


def _after_prefix(prefix: str) -> str | None:
    """The least text that is greater than every text that begins with `prefix`."""
    while prefix:
        following = ord(prefix[-1]) + 1
        if following == 0xD800:  # surrogates are no characters
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None
