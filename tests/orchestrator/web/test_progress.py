"""A job's progress in percent: what its steps have done, and not what they failed to do."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.control.views import job_summary
from tenants.store import attempt
from tests.orchestrator.web.conftest import Api, Bench

ROW = dict.fromkeys(
    (
        "id account pipeline priority error current_step failed_step cancel_requested_at run_at created_at started_at "
        "finished_at expires_at deadline_at unique_key tags callback_url"
    ).split()
)


def progress(status: str, *of_steps: tuple[str, bool, int]) -> int:
    rows = [{"status": state, "required": required, "progress": percent} for state, required, percent in of_steps]
    shown: int = job_summary({**ROW, "status": status}, rows)["progress"]
    return shown


@pytest.mark.parametrize("ended", ["failed", "timed_out", "cancelled"])
def test_a_step_that_did_not_complete_counts_what_it_has_done(ended: str) -> None:
    assert progress(ended, (ended, True, 15)) == 15
    assert progress(ended, ("completed", True, 100), (ended, True, 15), ("pending", True, 0)) == 38
    assert progress("queued", ("completed", True, 100), ("retrying", True, 40)) == 70


@pytest.mark.parametrize("ended", ["failed", "timed_out"])
def test_a_best_effort_step_that_failed_is_over(ended: str) -> None:
    assert progress("running", (ended, False, 15), ("running", True, 50)) == 75
    assert progress("completed", ("completed", True, 100), (ended, False, 15)) == 100


def test_a_failed_job_shows_it_alone_and_in_lists(api: Api, bench: Bench, new_job: Any) -> None:
    owned = bench.start(new_job())
    bench.write(lambda c: attempt.progress(c, owned, 15, "a start"))
    bench.fail(owned)
    assert api.get(f"/v1/jobs/{owned.job_id}").json()["progress"] == 7
    assert [job["progress"] for job in api.get("/v1/jobs").json()["items"]] == [7]
