"""What every database takes is reported alike wherever something comes in."""

from __future__ import annotations

from typing import Any

import pytest

from tenants.storable import fault_of, storable_text


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"a": ["b", 1, None, True, 2.5, {"\u00e4": "\U0001f600"}]}, None),
        ({"a": "\x00"}, "U+0000"),
        ({"a\x00": 1}, "U+0000"),
        (["\\\x00"], "U+0000"),
        (["\\u0000", "\\\\u0000"], None),
        ({"a": "\ud800"}, "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (nested(2000), "nested too deep"),
    ],
)
def test_a_document_that_cannot_be_kept_says_why(document: Any, said: str | None) -> None:
    found = fault_of(document)
    assert found is None if said is None else found is not None and said in found


def test_text_loses_only_what_no_database_takes() -> None:
    assert storable_text("a\x00b \u00e4 \U0001f600 \\u0000 \ud800.") == "ab \u00e4 \U0001f600 \\u0000 ?."
