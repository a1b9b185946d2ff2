"""docs/queues.md names every key, script, limit and reason that there is, and its examples run."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from tenants.queues import QueueLimits, Rate, TenantBroker
from tenants.queues import descriptions as described
from tenants.queues.keys import LANE_KEYS, LAYOUT, OTHER_KEYS, QUEUE_KEYS
from tenants.queues.lua import verbs
from tests import ROOT

TEXT = (ROOT / "docs" / "queues.md").read_text("utf-8")
KEYS = [suffix for table in (LANE_KEYS, QUEUE_KEYS, OTHER_KEYS) for suffix, _ in table.values()]


@pytest.mark.parametrize("suffix", KEYS)
def test_every_key_is_documented(suffix: str) -> None:
    assert f"`onelane:{LAYOUT}:{{lane}}{suffix}`" in TEXT


def test_every_script_is_documented_and_no_other() -> None:
    table = TEXT.partition("## Scripts")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == verbs()


def test_every_limit_and_reason_is_documented() -> None:
    names = {field.name for field in dataclasses.fields(QueueLimits)}
    source = Path(described.__file__).read_text("utf-8")
    reasons = set(re.findall(r'(?:Reason\(|^        )"(\w+)"[,:]', source, re.MULTILINE))
    assert {"delayed", "account_paused", "lane_at_concurrency"} <= reasons
    assert {name for name in names | reasons if f"`{name}`" not in TEXT} == set()


class Names(dict[str, Any]):
    """What the examples take for given; the actor is declared at its first use, when the broker is set."""

    def __missing__(self, name: str) -> Any:
        if name != "resize":
            raise KeyError(name)

        @dramatiq.actor(queue_name="resize")
        def resize(picture: str) -> None: ...

        return self.setdefault(name, resize)


def test_the_examples_run(redis_url: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    names = Names(dramatiq=dramatiq, QueueLimits=QueueLimits, Rate=Rate, picture="a.png")
    names["tomorrow"] = datetime.now(UTC) + timedelta(days=1)
    exec("\n".join(blocks).replace("redis://localhost:6379", redis_url), {}, names)  # noqa: S102
    broker = names["broker"]
    assert isinstance(broker, TenantBroker)
    described = broker.queues_admin.describe("resize", "acme")
    assert described is not None
    assert (described.waiting, described.limits.max_waiting, described.paused) == (1, 1000, True)
    assert broker.queues_admin.totals("resize").waiting == 2
    broker.close()
