"""Every single and double failure of worker, guard, zygote and supervisor; ``make chaos`` adds two more parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .failure_pairs import PARTS, as_text, combinations

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def test_no_step_process_lives_when_its_step_may_run_elsewhere() -> None:
    """In a process of its own, which forks the workers before it has a thread."""
    command = [sys.executable, "-m", "tests.isolation.failure_pairs", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-4000:]
    rows = json.loads(done.stdout)
    print(as_text(rows))
    assert len(rows) == len(combinations(PARTS)) == 66
    assert [row for row in rows if not row["holds"]] == [], done.stderr[-4000:]
