"""Every single failure of worker, guard, zygote, step supervisor, child and control plane, and every pair of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests import ROOT
from tests.orchestrator.isolation.failure_pairs import ALL_PARTS, MODES, as_text, combinations

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]


def failed(*options: str) -> list[dict[str, Any]]:
    """The rows of the table, from a process of its own, which forks the workers before it has a thread."""
    command = [sys.executable, "-m", "tests.orchestrator.isolation.failure_pairs", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-4000:]
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    print(as_text(rows))
    print(done.stderr[-4000:])
    return rows


def test_no_process_outlives_its_step_whatever_part_fails() -> None:
    rows = failed("--all", "--single")
    assert len(rows) == len(ALL_PARTS) * len(MODES) == 18
    assert [row for row in rows if not row["holds"]] == []


@pytest.mark.campaign
def test_no_process_outlives_its_step_whatever_two_parts_fail() -> None:
    rows = failed("--all")
    assert len(rows) == len(combinations(ALL_PARTS)) == 153
    assert [row for row in rows if not row["holds"]] == []
