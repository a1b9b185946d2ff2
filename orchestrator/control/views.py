"""Jobs as the API, events and webhooks show them: plain dicts with aware datetimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SUMMARY_FIELDS = (
    "id",
    "account",
    "pipeline",
    "status",
    "priority",
    "error",
    "current_step",
    "failed_step",
    "cancel_requested_at",
    "run_at",
    "created_at",
    "started_at",
    "finished_at",
    "expires_at",
    "deadline_at",
    "unique_key",
    "tags",
    "callback_url",
)
_STEP_FIELDS = (
    "id",
    "name",
    "lane",
    "status",
    "required",
    "attempt",
    "max_attempts",
    "progress",
    "note",
    "queued_at",
    "started_at",
    "finished_at",
    "output",
    "error",
)
_ATTEMPT_FIELDS = ("number", "worker", "started_at", "finished_at", "outcome", "error")


def job_summary(job: Mapping[Any, Any], steps: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """A job as lists show it: without input, result and steps. `steps` need only status and progress."""
    return {
        **{name: job[name] for name in _SUMMARY_FIELDS},
        "progress": _progress(job, steps),
        "queue_position": None,
        "estimated_wait": None,
    }


def job_view(
    job: Mapping[Any, Any], steps: Sequence[Mapping[Any, Any]], attempts: Sequence[Mapping[Any, Any]]
) -> dict[str, Any]:
    """A whole job. A caller that has asked Redis fills in `queue_position` and `estimated_wait`."""
    by_step: dict[str, list[dict[str, Any]]] = {}
    for attempt in attempts:
        by_step.setdefault(attempt["step_id"], []).append({name: attempt[name] for name in _ATTEMPT_FIELDS})
    return {
        **job_summary(job, steps),
        "input": job["input"],
        "result": job["result"],
        "steps": [
            {**{name: step[name] for name in _STEP_FIELDS}, "attempts": by_step.get(step["id"], [])} for step in steps
        ],
    }


def _progress(job: Mapping[Any, Any], steps: Sequence[Mapping[Any, Any]]) -> int:
    """Percent of the whole job: the mean of its steps, where a failed best-effort step counts as complete."""
    if job["status"] == "completed":
        return 100
    if not steps:
        return 0
    return min(99, sum(100 if _is_over(step) else step["progress"] for step in steps) // len(steps))


def _is_over(step: Mapping[Any, Any]) -> bool:
    """Whether the job has nothing left to do for this step."""
    ignored = not step["required"] and step["status"] in ("failed", "timed_out")
    return ignored or step["status"] in ("completed", "skipped")
