"""`onelane jobs …`: create, list, show, wait for, explain, cancel, retry, approve and reject jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import Onelane, Resource
from ..client.types import JobStatus
from ..exit_codes import JOB_ENDINGS, JOB_NOT_ENDED, OK
from ..terminal import console, print_json_line, say
from .batches import accept, read_jobs
from .context import Caller, CommandGroup, Idempotency, Limit, Watch, read_json, read_time
from .options import Account, AccountArgument, JobArgument, Pipeline, PipelineArgument, WithJobStatus
from .output import print_job, print_table

group = CommandGroup("Make, list, look at, explain, watch and steer jobs.")

_ENDINGS = "Status 0 only if it completed; 10 failed, 11 timed out, 12 cancelled, 13 expired"
_COLUMNS = ("id", "account", "pipeline", "status", "current_step", "created_at", "error")

Timeout = Annotated[float | None, typer.Option(min=0, help="Most seconds to wait; then status 14.")]


@dataclass(frozen=True, kw_only=True)
class WaitOptions:
    """Whether a command waits until the job has ended."""

    wait: Annotated[bool, typer.Option("--wait", help=f"Wait until the job has ended. {_ENDINGS}.")] = False
    watch: Annotated[bool, typer.Option("--watch", help="Show its progress until it has ended.")] = False
    timeout: Timeout = None

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.wait:
            raise typer.BadParameter("--timeout goes with --wait")

    def follow(self, caller: Caller, onelane: Onelane, job: Resource, *, until: str | None = None) -> None:
        """Show the job now or when it has ended, and end the command with the exit code of its status."""
        if self.watch and not self.wait:
            from .live import watch_job

            ended = watch_job(onelane.jobs.watch(job["id"]), json=caller.json, until=until)
            if ended is not None and not caller.json:
                print_job(ended)
            raise typer.Exit(OK if ended is not None and ended["status"] == until else _exit_code(ended))
        if self.wait:
            ended = onelane.jobs.wait(job["id"], timeout_seconds=self.timeout)
            caller.show(ended, print_job)
            raise typer.Exit(_exit_code(ended))
        caller.show(job, print_job)


def _exit_code(job: Resource | None) -> int:
    return JOB_NOT_ENDED if job is None else JOB_ENDINGS.get(job["status"], JOB_NOT_ENDED)


@group.command("create")
def create_job(
    account: AccountArgument,
    pipeline: PipelineArgument,
    *,
    input: Annotated[str, typer.Option("--input", help="The input: JSON, @file, or - for standard input.")] = "{}",
    run_at: Annotated[str | None, typer.Option(help="The earliest start: a time with offset.")] = None,
    delay: Annotated[float | None, typer.Option(min=0, help="Seconds until the earliest start.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 first; 5 when not given.")] = None,
    expires_in: Annotated[float | None, typer.Option(help="Most seconds until it starts.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Most seconds from its start for all steps.")] = None,
    approval: Annotated[bool, typer.Option("--approval", help="Stop before the last step until approved.")] = False,
    unique_key: Annotated[str | None, typer.Option(help="At most one unfinished job of this key.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Called, signed, when the job has ended.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    idempotency_key: Idempotency = None,
    waiting: WaitOptions,
    caller: Caller,
) -> None:
    """Create a job for ACCOUNT."""
    given = read_json("--input", input, dict)
    moment = read_time("--run-at", run_at)
    with caller.connect() as onelane:
        job = onelane.jobs.create(
            account,
            pipeline,
            given,
            run_at=moment,
            delay=delay,
            priority=priority,
            expires_in=expires_in,
            deadline=deadline,
            approval=approval or None,
            unique_key=unique_key,
            callback_url=callback_url,
            tags=tag or None,
            idempotency_key=idempotency_key,
        )
        waiting.follow(caller, onelane, job)


@group.command("batch")
def create_jobs(
    account: AccountArgument,
    file: Annotated[str, typer.Argument(help="A file of JSON lines, or - for standard input.")] = "-",
    *,
    pipeline: Annotated[
        str | None, typer.Option(help="Each line is the input of a job of this pipeline; else a whole job.")
    ] = None,
    idempotency_key: Idempotency = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all have ended; the highest status.")] = False,
    caller: Caller,
) -> None:
    """Create a job for ACCOUNT of each line, 1,000 per request, each request all or nothing."""
    lines = read_jobs(file, pipeline)
    with caller.connect() as onelane:
        made: list[Resource] = list(accept(onelane, account, lines, idempotency_key))
        if wait:
            made = [onelane.jobs.wait(job["id"]) for job in made]
    caller.show({"items": made}, lambda answer: print_table(answer["items"], _COLUMNS, empty="no jobs"))
    if wait:
        raise typer.Exit(max(map(_exit_code, made), default=OK))


@group.command("list")
def list_jobs(
    *,
    account: Account = None,
    status: WithJobStatus = None,
    pipeline: Pipeline = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    q: Annotated[str | None, typer.Option("--search", help="Id, tag or unique key begins with this.")] = None,
    created_after: Annotated[str | None, typer.Option(help="Only those made after this time, with its offset.")] = None,
    created_before: Annotated[str | None, typer.Option(help="Only those made before it.")] = None,
    limit: Limit = 50,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List jobs, newest first."""
    filters: dict[str, Any] = {"account": account, "status": status, "pipeline": pipeline, "tag": tag, "q": q}
    filters["created_after"] = read_time("--created-after", created_after)
    filters["created_before"] = read_time("--created-before", created_before)
    with caller.connect() as onelane:
        caller.show_rows(lambda: onelane.jobs.list(limit=limit, **filters), _COLUMNS, empty="no jobs", watch=watch)


@group.command("get")
def get_job(
    job_id: JobArgument,
    *,
    wait: Annotated[float, typer.Option(min=0, max=60, help="Seconds to wait for its end.")] = 0,
    caller: Caller,
) -> None:
    """Show a job with its steps and attempts."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.get(job_id, wait=wait), print_job)


@group.command("wait", help=f"Wait until a job has ended. {_ENDINGS}.")
def wait_for_job(job_id: JobArgument, *, timeout: Timeout = None, caller: Caller) -> None:
    """Wait until a job has ended."""
    with caller.connect() as onelane:
        job = onelane.jobs.wait(job_id, timeout_seconds=timeout)
        caller.show(job, print_job)
    raise typer.Exit(_exit_code(job))


@group.command("watch", help=f"Show a job's progress until it has ended. {_ENDINGS}.")
def watch_until_end(
    job_id: JobArgument,
    *,
    until: Annotated[JobStatus | None, typer.Option(help="End with status 0 as soon as it has this status.")] = None,
    caller: Caller,
) -> None:
    """Show a job's progress until it has ended."""
    with caller.connect() as onelane:
        WaitOptions(watch=True).follow(caller, onelane, {"id": job_id}, until=until)


@group.command("events")
def job_events(
    job_id: JobArgument,
    *,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the first stored event, not with a snapshot.")
    ] = False,
    caller: Caller,
) -> None:
    """Print a job's events until its end; with --json a line of JSON for each."""
    with caller.connect() as onelane:
        for event in onelane.jobs.events(job_id, from_start=from_start):
            print_event(event.type, event.data, json=caller.json)


@group.command("logs")
def job_logs(
    job_id: JobArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Also print new lines, until the job's end.")] = False,
    caller: Caller,
) -> None:
    """Print the log lines of a job's steps, also of a job that has ended.

    With --json a line of JSON for each.
    """
    with caller.connect() as onelane:
        for line in onelane.jobs.logs(job_id, follow=follow):
            if caller.json:
                print_json_line(line)
            else:
                text = f"{line['level']:<7} {line['step']}: {line['message']}"
                console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_event(type: str, data: Resource, *, json: bool) -> None:
    """Print an event on one line; of a snapshot or an end only status and progress."""
    if json:
        print_json_line({"event": type, "data": data})
        return
    whole = type in ("snapshot", "end")
    words = {name: data[name] for name in ("job", "status", "progress")} if whole and "job" in data else data
    words = {name: data[name] for name in ("status", "progress")} if whole and "job" not in data else words
    shown = "  ".join(f"{name} {value}" for name, value in words.items() if value not in (None, ""))
    console.print(f"{type:<9} {shown}", markup=False, soft_wrap=True)


@group.command("why")
def why(job_id: JobArgument, caller: Caller) -> None:
    """Show every reason why a job does not run now."""
    with caller.connect() as onelane:
        columns = ("code", "message", "until", "count")
        empty = "no reason: it is running, or has ended"
        caller.show_rows(lambda: onelane.jobs.why(job_id), columns, empty=empty)


@group.command("artifacts")
def artifacts(
    job_id: JobArgument,
    *,
    save: Annotated[Path | None, typer.Option(help="Write the files into this folder.", file_okay=False)] = None,
    caller: Caller,
) -> None:
    """List the files that a job's attempts stored, such as screenshots of a failure."""
    with caller.connect() as onelane:
        found = onelane.jobs.artifacts(job_id)
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            for number, artifact in enumerate(found, 1):
                path = save / f"{number:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', artifact['name'])}"
                path.write_bytes(onelane.jobs.download(artifact))
                say(f"wrote {path}")
        columns = ("name", "content_type", "size", "step", "created_at")
        caller.show_rows(lambda: found, columns, empty="no artifacts")
        if found and save is None and not (caller.json or caller.ids):
            say("--save FOLDER writes them there; --json has their addresses")


@group.command("deliveries")
def deliveries(job_id: JobArgument, caller: Caller) -> None:
    """Show every attempt to call a job's callback URL."""
    with caller.connect() as onelane:
        caller.show({"items": onelane.jobs.deliveries(job_id)}, _print_deliveries)


@group.command("cancel")
def cancel_job(job_id: JobArgument, caller: Caller) -> None:
    """Cancel a job; its running step is killed."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.cancel(job_id), print_job)


@group.command("retry")
def retry_job(job_id: JobArgument, *, waiting: WaitOptions, caller: Caller) -> None:
    """Retry a job from the step that failed."""
    with caller.connect() as onelane:
        waiting.follow(caller, onelane, onelane.jobs.retry(job_id))


@group.command("approve")
def approve_job(
    job_id: JobArgument,
    *,
    draft_version: Annotated[
        int | None, typer.Option(min=1, help="Approve only while the draft is at this version.")
    ] = None,
    waiting: WaitOptions,
    caller: Caller,
) -> None:
    """Approve a job: its last step runs."""
    with caller.connect() as onelane:
        waiting.follow(caller, onelane, onelane.jobs.approve(job_id, draft_version=draft_version))


@group.command("reject")
def reject_job(
    job_id: JobArgument,
    *,
    reason: Annotated[str | None, typer.Option(help="Stored with the job.")] = None,
    caller: Caller,
) -> None:
    """Reject a job that awaits approval; its draft is discarded."""
    with caller.connect() as onelane:
        caller.show(onelane.jobs.reject(job_id, reason), print_job)


def _print_deliveries(answer: Resource) -> None:
    """Print a line for each attempt, and one for a delivery without any."""
    blank = dict.fromkeys(("number", "started_at", "status_code", "seconds", "error"))
    tries = [
        {**blank, **attempt, **{name: each[name] for name in ("id", "status", "next_attempt_at")}}
        for each in answer["items"]
        for attempt in each["attempts"] or [{}]
    ]
    columns = ("id", "status", "number", "started_at", "status_code", "seconds", "error", "next_attempt_at")
    print_table(tries, columns, empty="no deliveries: it has not ended, or has no callback URL")
