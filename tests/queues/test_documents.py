"""docs/queues.md names every key, script, limit and reason that there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tenants.queues import QueueLimits
from tenants.queues import descriptions as described
from tenants.queues.keys import LANE_KEYS, OTHER_KEYS, QUEUE_KEYS
from tenants.queues.lua import verbs

TEXT = (Path(__file__).parents[2] / "docs" / "queues.md").read_text("utf-8")
KEYS = [suffix for table in (LANE_KEYS, QUEUE_KEYS, OTHER_KEYS) for suffix, _ in table.values()]


@pytest.mark.parametrize("suffix", KEYS)
def test_every_key_is_documented(suffix: str) -> None:
    assert f"`onelane:{{lane}}{suffix}`" in TEXT


def test_every_script_is_documented_and_no_other() -> None:
    table = TEXT.partition("## Scripts")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == verbs()


def test_every_limit_and_reason_is_documented() -> None:
    names = {field.name for field in dataclasses.fields(QueueLimits)}
    source = Path(described.__file__).read_text("utf-8")
    reasons = set(re.findall(r'Reason\("(\w+)"', source)) | {"queue_paused", "account_paused"}
    assert {name for name in names | reasons if f"`{name}`" not in TEXT} == set()
