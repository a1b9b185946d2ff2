"""Which texts and documents both databases can store.

PostgreSQL stores U+0000 in no text and not in every kind of JSON; a lone surrogate has no UTF-8 encoding, and infinity
and NaN are not JSON.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

#: The escape of U+0000 after an even number of backslashes; an odd one escapes a backslash itself.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def fault_of(document: Any) -> str | None:
    """Why a document of plain data cannot be stored; None if it can. Numbers are not checked."""
    try:
        found = _NUL.search(to_json(document, inf_nan_mode="constants"))
    except PydanticSerializationError as error:
        if "surrogates" in str(error):
            return "a lone surrogate is not a character"
        return "arrays and objects are nested too deep"
    return None if found is None else "the character U+0000 is not allowed"


def storable_text(text: str) -> str:
    """The text without U+0000, and with a question mark for each lone surrogate."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
