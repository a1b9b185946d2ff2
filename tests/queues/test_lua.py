"""The scripts as they are written, and as the server gets them."""

from __future__ import annotations

import pytest

from tenants.queues.lua import script, verbs, with_field_numbers

WRITTEN = """
-- @fields a: token count
-- @fields a: due
-- @fields record: id
local key = R .. ':state:' .. a.token
a.due = record.id == data.due and a.count .. a.token or lane.a.count
"""


def test_fields_are_numbered_in_the_order_in_which_they_are_told() -> None:
    *_, key, due, _ = with_field_numbers(WRITTEN).split("\n")
    assert key == "local key = R .. ':state:' .. a[1]"
    assert due == "a[3] = record[1] == data.due and a[2] .. a[1] or lane.a.count"


def test_a_field_that_was_not_told_of_is_refused() -> None:
    with pytest.raises(KeyError, match="tokens"):
        with_field_numbers(WRITTEN + "return a.tokens")


@pytest.mark.parametrize("verb", verbs())
def test_no_name_of_a_key_or_field_is_left_in_a_script(verb: str) -> None:
    code = "\n".join(line.partition("--")[0] for line in script(verb).text.splitlines())
    assert "K." not in code
    assert "S." not in code
    assert " a." not in code
    assert " record." not in code
