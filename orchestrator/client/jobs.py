"""Jobs: create, list, wait for, follow, explain, cancel, retry, approve and reject them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, cast

from .connection import Api, Event, given, segment
from .types import Artifact, Delivery, Job, JobStatus, JobSummary, WhyItem

FINISHED: frozenset[JobStatus] = frozenset({"completed", "failed", "timed_out", "cancelled", "expired"})
#: The longest wait of one request for a job's end.
_LONGEST_WAIT_SECONDS = 60.0


class JobRequest(TypedDict, total=False):
    """One job of a batch: times as RFC 3339 text, durations in seconds."""

    pipeline: str
    input: Mapping[str, Any]
    run_at: str
    delay: float
    priority: int
    expires_in: float
    deadline: float
    approval: bool
    unique_key: str
    callback_url: str
    tags: Sequence[str]


class LogLine(TypedDict):
    """A line that a step wrote with `ctx.log`."""

    step: str
    level: str
    message: str


class JobsApi(Api):
    """`/v1/jobs` and an account's jobs."""

    def create(
        self,
        account: str,
        pipeline: str,
        input: Mapping[str, Any],
        *,
        run_at: datetime | None = None,
        delay: float | None = None,
        priority: int | None = None,
        expires_in: float | None = None,
        deadline: float | None = None,
        approval: bool | None = None,
        unique_key: str | None = None,
        callback_url: str | None = None,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Create a job; it is committed when this returns. Durations in seconds; `run_at` needs an offset."""
        body = given(
            pipeline=pipeline,
            input=dict(input),
            run_at=run_at.isoformat() if run_at else None,
            delay=delay,
            priority=priority,
            expires_in=expires_in,
            deadline=deadline,
            approval=approval,
            unique_key=unique_key,
            callback_url=callback_url,
            tags=None if tags is None else list(tags),
        )
        path = f"/v1/accounts/{segment(account)}/jobs"
        made = self._connection.call("POST", path, json=body, creates=True, idempotency_key=idempotency_key)
        return cast("Job", made)

    def create_many(
        self, account: str, jobs: Sequence[JobRequest], *, idempotency_key: str | None = None
    ) -> list[JobSummary]:
        """Create 1 to 1,000 jobs, all or nothing; a used unique key gives the existing job. Summaries in order."""
        path = f"/v1/accounts/{segment(account)}/jobs:batch"
        body = {"jobs": list(jobs)}
        made = self._connection.call("POST", path, json=body, creates=True, idempotency_key=idempotency_key)
        return cast("list[JobSummary]", made["items"])

    def get(self, job_id: str, *, wait: float = 0) -> Job:
        """The job with steps and attempts; with `wait` (0–60 s) when it has ended or the time is over."""
        path = f"/v1/jobs/{segment(job_id)}"
        return cast("Job", self._connection.call("GET", path, params={"wait": wait or None}, wait_seconds=wait))

    def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> Job:
        """The job when it has ended or the time is over."""
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            left = _LONGEST_WAIT_SECONDS if until is None else until - time.monotonic()
            job = self.get(job_id, wait=max(0.0, min(_LONGEST_WAIT_SECONDS, left)))
            if job["status"] in FINISHED or left <= 0:
                return job

    def list(
        self,
        *,
        limit: int | None = 50,
        account: str | None = None,
        status: str | None = None,
        pipeline: str | None = None,
        tag: str | None = None,
        q: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
    ) -> Iterator[JobSummary]:
        """Summaries, newest first, over all pages; `limit` None for all. `q` is a prefix of id, tag or unique key."""
        filters = {"account": account, "status": status, "pipeline": pipeline, "tag": tag, "q": q}
        times = {"created_after": _text(created_after), "created_before": _text(created_before)}
        return self._connection.pages("/v1/jobs", {**filters, **times}, limit)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once if it is waiting; a running step is killed within seconds."""
        return self._call_verb(job_id, "cancel")

    def retry(self, job_id: str) -> Job:
        """Retry a failed, timed-out, cancelled or expired job from the step that failed."""
        return self._call_verb(job_id, "retry")

    def approve(self, job_id: str, *, draft_version: int | None = None) -> Job:
        """Approve a job: its last step runs, with the draft as it is now or at this version."""
        headers = {} if draft_version is None else {"If-Match": f'"{draft_version}"'}
        return self._call_verb(job_id, "approve", headers=headers)

    def reject(self, job_id: str, reason: str | None = None) -> Job:
        """Reject a job that awaits approval; its draft is discarded."""
        return self._call_verb(job_id, "reject", given(reason=reason))

    def why(self, job_id: str) -> Sequence[WhyItem]:
        """Every reason why the job does not run now; empty if it is running or has ended."""
        return cast("list[WhyItem]", self._connection.call("GET", f"/v1/jobs/{segment(job_id)}/why")["items"])

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files that the job's attempts stored; `download` uses each one's `url`, which expires."""
        return cast("list[Artifact]", self._connection.call("GET", f"/v1/jobs/{segment(job_id)}/artifacts")["items"])

    def download(self, artifact: Artifact) -> bytes:
        """The content of an artifact."""
        return self._connection.download(artifact["url"])

    def deliveries(self, job_id: str) -> Sequence[Delivery]:
        """The deliveries to the job's `callback_url`, the oldest first, each with its attempts."""
        return cast("list[Delivery]", self._connection.call("GET", f"/v1/jobs/{segment(job_id)}/deliveries")["items"])

    def events(self, job_id: str, *, from_start: bool = False, follow: bool = True) -> Iterator[Event]:
        """The job's events, from a `snapshot` to the `end`; a stream that breaks off is resumed.

        Args:
            job_id: the job.
            from_start: begin with the first stored event instead of a `snapshot`, also of an ended job.
            follow: False: end after the stored events.
        """
        path = f"/v1/jobs/{segment(job_id)}/events"
        for event in self._connection.events(path, from_start=from_start, follow=follow):
            yield event
            if event.type == "end":
                return

    def logs(self, job_id: str, *, follow: bool = False) -> Iterator[LogLine]:
        """The job's stored log lines; with `follow` also new ones, until its end."""
        for event in self.events(job_id, from_start=True, follow=follow):
            if event.type == "log":
                yield cast("LogLine", event.data)

    def watch(self, job_id: str) -> Iterator[Job]:
        """The job each time it has changed, until it has ended."""
        last: Job | None = None
        for event in self.events(job_id):
            if event.type == "log":
                continue
            job = self.get(job_id)
            if job != last:
                yield job
                last = job
            if job["status"] in FINISHED:
                return

    def _call_verb(
        self,
        job_id: str,
        verb: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Job:
        path = f"/v1/jobs/{segment(job_id)}:{verb}"
        return cast("Job", self._connection.call("POST", path, json=body, headers=headers))


def _text(time: datetime | str | None) -> str | None:
    return time.isoformat() if isinstance(time, datetime) else time
