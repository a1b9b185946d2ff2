"""The scripts as the server gets them."""

from __future__ import annotations

import pytest

from tenants.queues.lua import script, verbs


@pytest.mark.parametrize("verb", verbs())
def test_no_name_of_a_key_is_left_in_a_script(verb: str) -> None:
    code = "\n".join(line.partition("--")[0] for line in script(verb).text.splitlines())
    assert "K." not in code


@pytest.mark.parametrize("verb", verbs())
def test_a_script_includes_each_part_once(verb: str) -> None:
    text = script(verb).text
    assert text.count("local function save_lane(") <= 1
    assert text.count("local function open(") <= 1
    assert "@include" not in text
