"""Schedules: create, list, change, preview, run and delete them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from .connection import Api, segment
from .types import Fire, Job, Schedule, ScheduleSummary


class SchedulesApi(Api):
    """`/v1/schedules` and an account's schedules. Fields are those of the API; times as RFC 3339 text."""

    def create(
        self, account: str, name: str, pipeline: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> Schedule:
        """Create a schedule; `fields` are one of `cron every at spread`, and the API's other fields."""
        body = {"name": name, "pipeline": pipeline, **fields}
        path = f"/v1/accounts/{segment(account)}/schedules"
        made = self._connection.call("POST", path, json=body, creates=True, idempotency_key=idempotency_key)
        return cast("Schedule", made)

    def list(self, *, limit: int | None = 50, account: str | None = None) -> Iterator[ScheduleSummary]:
        """Summaries, newest first."""
        return self._connection.pages("/v1/schedules", {"account": account}, limit)

    def get(self, schedule_id: str) -> Schedule:
        """One schedule, with its inputs."""
        return cast("Schedule", self._connection.call("GET", f"/v1/schedules/{segment(schedule_id)}"))

    def change(self, schedule_id: str, **changes: Any) -> Schedule:
        """Change some fields; None clears one."""
        changed = self._connection.call("PATCH", f"/v1/schedules/{segment(schedule_id)}", json=changes)
        return cast("Schedule", changed)

    def delete(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay."""
        self._connection.call("DELETE", f"/v1/schedules/{segment(schedule_id)}")

    def run(self, schedule_id: str, *, idempotency_key: str | None = None) -> Job:
        """Create its job now; the answer is the job."""
        path = f"/v1/schedules/{segment(schedule_id)}:run"
        return cast("Job", self._connection.call("POST", path, creates=True, idempotency_key=idempotency_key))

    def preview(self, *, count: int = 10, **fields: Any) -> Sequence[str]:
        """The next times of a schedule that need not exist."""
        answer = self._connection.call("POST", "/v1/schedules:preview", json={**fields, "count": count})
        return list(answer["items"])

    def fires(self, schedule_id: str, *, limit: int | None = 50) -> Iterator[Fire]:
        """Its fires, newest first."""
        return self._connection.pages(f"/v1/schedules/{segment(schedule_id)}/fires", {}, limit)
