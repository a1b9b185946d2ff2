"""Runs the demo: start the service, create accounts and jobs, watch, check, and leave the service running."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from ..client import FINISHED, ApiError, JobRequest, NotReachable, Onelane, Resource
from ..demo_blog.store import BlogStore
from ..local.data_folder import DataFolder, FolderBusy
from ..local.ports import reachable_host
from ..local.up import StartFailed, Up
from ..settings import Settings
from ..stopping import Stopping
from ..terminal import console, errors, fail, print_json, say
from .progress import Progress
from .proof import blog_report, most_at_once, queue_reports, spans_of
from .report import Report, print_report
from .texts import ACCOUNTS, NoTexts, Skipped, Text, read_texts

Job = Resource

TAG = "demo"
#: How often the jobs are polled.
_POLL_SECONDS = 0.5
#: How long the API may be down, such as during a restart, before the demo gives up.
_AWAY_SECONDS = 60.0
_LOG_BYTES = 10_000_000
#: Jobs in one request: with the longest texts they stay below the API's 16 MiB.
_JOBS_A_REQUEST = 10
_THREADS_A_CORE = 2


@dataclass(frozen=True, slots=True)
class Service:
    """The service that the demo uses; `up` is None if another process runs it."""

    client: Onelane
    api: str
    demo_blog: str
    offline: bool
    up: Up | None


def run(folder: Path, settings: Settings, stopping: Stopping, *, exit_when_done: bool, json: bool) -> int:
    """Run the demo; returns the exit code: 0 only if each text was published exactly once.

    Raises:
        StartFailed, PortBusy: the service does not start.
    """
    try:
        texts, skipped = read_texts(folder)
    except NoTexts as error:
        fail(str(error))
        return 1
    for each in skipped:
        say(f"skipped {each.name}: {each.reason}")
    with _service(settings, stopping) as service:
        _describe(service, texts, settings)
        screen = errors if json else console
        report = _publish(service, texts, skipped, settings, stopping, screen)
        if report is None:
            say("interrupted; the next run continues this one")
            return 130
        if json:
            print_json(report.as_json())
        else:
            print_report(report, console)
        if not exit_when_done:
            _leave_running(service, stopping)
    return 0 if report.ok else 1


@contextlib.contextmanager
def _service(settings: Settings, stopping: Stopping) -> Iterator[Service]:
    """A new service, or the one that already runs on the data directory."""
    folder = DataFolder(settings.data_dir)
    folder.create()
    if "threads" not in settings.model_fields_set:
        # Each publish starts a browser. More threads delay the first post (on two cores: 12.0 s after the start with
        # 8 threads, 8.9 s with 4) and gain little in total (57 posts a minute instead of 54).
        settings = settings.model_copy(
            update={"threads": min(settings.threads, _THREADS_A_CORE * (os.cpu_count() or 1))}
        )
    with contextlib.ExitStack() as stack:
        up = Up(settings, say=say, on_line=_log_file(folder.path, stack), cancelled=lambda: stopping.asked)
        stopping.on_second = up.kill
        say(f"starting onelane; its files are in {folder.path}, its log in {folder.path / 'onelane.log'}")
        try:
            stack.enter_context(up)
        except FolderBusy as busy:
            # An earlier run may still be working after its starter was killed.
            say(f"a service is running there already (process {busy.pid}); the demo uses it")
            yield _running_service(settings, folder)
            return
        client = stack.enter_context(up.client())
        offline = up.settings.gemini_api_key is None
        yield Service(client, up.addresses.api, up.addresses.demo_blog, offline, up)


def _running_service(settings: Settings, folder: DataFolder) -> Service:
    ports = folder.ports()
    api = f"http://{reachable_host(settings.host)}:{ports.get('api', settings.port)}"
    key = settings.admin_key.get_secret_value() if settings.admin_key else folder.kept_key("admin")
    if not key:
        raise StartFailed(f"the service that runs on {folder.path} has not created its key yet; try again in a moment")
    client = Onelane(api, key)
    until = time.monotonic() + _AWAY_SECONDS
    while True:
        missing = "a worker"
        try:
            ready = client.ready()
            if ready["status"] == "ok" and client.workers():
                break
            missing = ", ".join(part for part, state in ready["parts"].items() if state != "ok") or missing
        except (NotReachable, ApiError):
            if time.monotonic() > until:
                raise
        if time.monotonic() > until:
            raise StartFailed(f"the service that runs on {folder.path} does not become ready: it lacks {missing}")
        time.sleep(_POLL_SECONDS)  # it does not signal when it is ready; bounded above
    blog = f"http://127.0.0.1:{ports.get('demo_blog', settings.demo_blog_port)}"
    return Service(client, api, blog, settings.gemini_api_key is None, None)


def _log_file(folder: Path, stack: contextlib.ExitStack) -> Any:
    """A writer of the parts' lines to a file, rotated at 10 MB, so that they do not disturb the live view."""
    handler = RotatingFileHandler(folder / "onelane.log", maxBytes=_LOG_BYTES, backupCount=2, encoding="utf-8")
    stack.callback(handler.close)

    def write(name: str, line: str) -> None:
        handler.emit(logging.makeLogRecord({"msg": f"{name:<9}| {line}"}))
        if line.startswith("ended unexpectedly"):
            say(f"{name} {line}")

    return write


def _describe(service: Service, texts: list[Text], settings: Settings) -> None:
    model = "the offline model (no GEMINI_API_KEY is set)" if service.offline else f"Gemini, {settings.text_model}"
    say(f"API {service.api}   demo blog {service.demo_blog}   texts by {model}")
    say(f"{len(texts)} texts × {len(ACCOUNTS)} accounts = {len(texts) * len(ACCOUNTS)} posts")


def _publish(
    service: Service, texts: list[Text], skipped: list[Skipped], settings: Settings, stopping: Stopping, screen: Console
) -> Report | None:
    """Create the missing jobs, watch until all have ended, and check the result; None if interrupted."""
    blog = BlogStore(settings.data_dir / "demo-blog")
    began = time.monotonic()
    _make_accounts(service, blog, _secret(settings))
    wanted, done_before = _make_jobs(service.client, texts)
    names = {job_id: text.name for (_, text), job_id in wanted.items()}
    progress = Progress(screen, names)
    with progress.shown():
        finished = _watch(service, set(names), progress, stopping)
    if not finished:
        return None
    seconds = time.monotonic() - began
    jobs = {job_id: service.client.jobs.get(job_id) for job_id in names}
    posts = [_post(account, text, jobs[job_id]) for (account, text), job_id in wanted.items()]
    completed = sum(post["status"] == "completed" for post in posts)
    return Report(
        posts=posts,
        queues=queue_reports(jobs.values()),
        blogs=[blog_report(each, blog, _published_urls(service.client, each.account)) for each in ACCOUNTS],
        skipped=skipped,
        seconds=seconds,
        published_now=completed - done_before,
        most_at_once=most_at_once(
            spans_of(attempt for job in jobs.values() for step in job["steps"] for attempt in step["attempts"])
        ),
        addresses={"api": service.api, "docs": f"{service.api}/docs", "demo_blog": service.demo_blog},
    )


def _secret(settings: Settings) -> str:
    """The secret from which the blog users' passwords are derived: the same at each start on this data directory."""
    secret = settings.secret_key or SecretStr(DataFolder(settings.data_dir).key("secret"))
    return secret.get_secret_value()


def _make_accounts(service: Service, blog: BlogStore, secret: str) -> None:
    for each in ACCOUNTS:
        blog.create_user(each.username, each.password(secret), each.blog_title)
        service.client.accounts.put_target(each.account, "demo", service.demo_blog, {})
        service.client.accounts.put_session(each.account, credentials=(each.username, each.password(secret)))


def _make_jobs(client: Onelane, texts: list[Text]) -> tuple[dict[tuple[str, Text], str], int]:
    """A job for each text and account, created only if there is none; and how many had completed before."""
    wanted: dict[tuple[str, Text], str] = {}
    done_before = 0
    for each in ACCOUNTS:
        known: dict[str, Job] = {}
        for job in client.jobs.list(account=each.account, tag=TAG, limit=None):
            # Newest first: only the newest of a text counts.
            known.setdefault(str(job["unique_key"]), job)
        missing = [text for text in texts if _unique_key(text) not in known]
        for start in range(0, len(missing), _JOBS_A_REQUEST):
            batch = missing[start : start + _JOBS_A_REQUEST]
            requests: list[JobRequest] = [
                {"pipeline": "blog", "input": each.input(text), "unique_key": _unique_key(text), "tags": [TAG]}
                for text in batch
            ]
            for text, made in zip(batch, client.jobs.create_many(each.account, requests), strict=True):
                wanted[each.account, text] = made["id"]
        for text in texts:
            found = known.get(_unique_key(text))
            if found is None:
                continue
            if found["status"] == "completed":
                done_before += 1
            elif found["status"] in FINISHED:
                _retry(client, found)
            wanted[each.account, text] = found["id"]
    return wanted, done_before


def _unique_key(text: Text) -> str:
    return f"{TAG}:{text.key}"


def _retry(client: Onelane, job: Job) -> None:
    """Retry a job from its failed step; the ledger ensures that no post is published twice."""
    with contextlib.suppress(ApiError):  # the report shows it as failed, with its error
        client.jobs.retry(job["id"])


def _watch(service: Service, ids: set[str], progress: Progress, stopping: Stopping) -> bool:
    """Show the jobs until all have ended; False if the demo is stopped first."""
    urls: dict[str, str] = {}
    answered = time.monotonic()
    while not stopping.asked:
        try:
            jobs = [job for job in _demo_jobs(service.client) if job["id"] in ids]
            running = {job["id"]: service.client.jobs.get(job["id"]) for job in jobs if job["status"] == "running"}
            for job in jobs:
                if job["status"] == "completed" and job["id"] not in urls:
                    urls[job["id"]] = str((service.client.jobs.get(job["id"])["result"] or {}).get("url"))
        except (NotReachable, ApiError) as error:
            if isinstance(error, ApiError) and error.status < 500:
                raise
            if time.monotonic() - answered > _AWAY_SECONDS:
                raise
        else:
            answered = time.monotonic()
            progress.update(jobs, running, urls)
            if len(jobs) == len(ids) and all(job["status"] in FINISHED for job in jobs):
                return True
        stopping.wait(_POLL_SECONDS)
    return False


def _demo_jobs(client: Onelane) -> list[Job]:
    return list(client.jobs.list(tag=TAG, limit=None))


def _post(account: str, text: Text, job: Job) -> dict[str, Any]:
    result = job["result"] or {}
    return {
        "account": account,
        "file": text.name,
        "job": job["id"],
        "status": job["status"],
        "title": result.get("title"),
        "url": result.get("url"),
        "error": job["error"],
    }


def _published_urls(client: Onelane, account: str) -> list[str]:
    """The URLs of the account's posts in the publication ledger, by this run or an earlier one."""
    drafts = client.drafts.list(account=account, status="published", limit=None)
    return [str(draft["publication"]["url"]) for draft in drafts if draft["publication"]]


def _leave_running(service: Service, stopping: Stopping) -> None:
    if service.up is None:
        return
    say(f"\nThe service keeps running. See {service.demo_blog} and {service.api}/docs; Ctrl-C stops it.")
    stopping.wait()
    say("stopping …")
