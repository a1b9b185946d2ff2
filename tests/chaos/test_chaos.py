"""The short form: real processes under the commonest attacks for some seconds; ``make chaos`` is the long one."""

from __future__ import annotations

from typing import Literal

import pytest

from .report import table
from .run import Scale, run_chaos

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(600)]

#: A seed decides jobs and attacks; a finding is replayed with it.
SEED = 7


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_nothing_twice(kind: Literal["sqlite", "postgresql"]) -> None:
    scale = Scale(seconds=20, jobs=150, accounts=40, workers=2, controls=1, threads=4, every=2.0)
    lines: list[str] = []
    verdict = run_chaos(kind, SEED, scale, say=lines.append)
    assert verdict.ok, "\n".join([*lines, table([verdict])])
    assert verdict.accepted == scale.jobs
    assert sum(verdict.attacks.values()) >= 5
