"""Commands for operators: queues, lanes, workers, pipelines, the audit, reap and reconcile."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from ..client import Resource
from ..exit_codes import FAILED
from ..terminal import console
from .context import Caller, CommandGroup, Limit, Watch
from .options import Account, AccountArgument, Lane, LaneArgument
from .output import print_table

queues = CommandGroup("List, check, pause and delete live tenant queues.")
lanes = CommandGroup("List, pause and limit lanes, over all accounts.")
workers = CommandGroup("Look at the live workers.")
pipelines = CommandGroup("Look at the pipelines that are loaded.")

_QUEUE = ("queue", "lane", "account", "waiting", "active", "delayed", "last_used_at", "paused", "circuit")
_LOAD = ("account", "seconds", "waiting", "share")
_LANE = (
    "lane",
    "paused",
    "global_concurrency",
    "waiting",
    "active",
    "delayed",
    "ready_accounts",
    "queues",
    "oldest_wait",
)


class LoadKind(StrEnum):
    """The measure of an account's load."""

    SECONDS = "seconds"
    BACKLOG = "backlog"


# --- tenant queues -------------------------------------------------------------------------------------------------


@queues.command("list")
def list_queues(
    *,
    lane: Lane = None,
    account: Account = None,
    idle_longer_than: Annotated[float | None, typer.Option(min=0, help="Unused for so many seconds.")] = None,
    limit: Limit = 200,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List live tenant queues."""
    with caller.connect() as onelane:
        caller.show_rows(
            lambda: onelane.queues.list(limit=limit, lane=lane, account=account, idle_longer_than=idle_longer_than),
            _QUEUE,
            empty="no live tenant queues",
            watch=watch,
        )


@queues.command("get")
def get_queue(lane: LaneArgument, account: AccountArgument, caller: Caller) -> None:
    """Show a tenant queue."""
    with caller.connect() as onelane:
        caller.show(onelane.queues.get(lane, account), _print_queue)


@queues.command("pause")
def pause_queue(lane: LaneArgument, account: AccountArgument, caller: Caller) -> None:
    """Pause ACCOUNT's queue on LANE."""
    with caller.connect() as onelane:
        caller.show(onelane.queues.pause(lane, account), _print_queue)


@queues.command("resume")
def resume_queue(lane: LaneArgument, account: AccountArgument, caller: Caller) -> None:
    """End the pause of ACCOUNT's queue on LANE, and close its circuit."""
    with caller.connect() as onelane:
        caller.show(onelane.queues.resume(lane, account), _print_queue)


@queues.command("delete")
def delete_queue(
    lane: LaneArgument,
    account: AccountArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Cancel its waiting jobs.")] = False,
    caller: Caller,
) -> None:
    """Delete a tenant queue; one with waiting steps only with --force."""
    with caller.connect() as onelane:
        answer = onelane.queues.delete(lane, account, force=force)
        done = "deleted" if answer["deleted"] else "did not delete"
        caller.report(answer, f"{done} {lane}_{account}; {answer['cancelled']} cancelled")


@queues.command("check")
def check_queues(caller: Caller) -> None:
    """Check the broker's invariants and repair violations; status 1 if there were any."""
    with caller.connect() as onelane:
        report = onelane.queues.check()
    caller.show(report, _print_check)
    if report["violations"]:
        raise typer.Exit(FAILED)


def reap(
    *,
    idle_longer_than: Annotated[
        float | None, typer.Option(min=0, help="Unused for so many seconds; the setting when not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them.")] = False,
    caller: Caller,
) -> None:
    """Delete tenant queues that are empty and unused; a loop does it, too."""
    with caller.connect() as onelane:
        report = onelane.reap(idle_longer_than, dry_run=dry_run)

    def print_reaped(answer: Resource) -> None:
        print_table(answer["queues"], ("queue", "lane", "account"), empty="no idle tenant queues")
        verb = "would be" if dry_run else "was" if answer["reaped"] == 1 else "were"
        console.print(f"{answer['reaped']} {verb} deleted", markup=False)

    caller.show(report, print_reaped)


def reconcile(caller: Caller) -> None:
    """Make Redis hold what SQL says, now; after a loss of Redis it happens by itself."""
    with caller.connect() as onelane:
        report = onelane.reconcile()
    caller.report(
        report,
        f"{report['requeued']} requeued (Redis did not have them), {report['released']} released (held by dead "
        f"workers), {report['orphaned']} orphaned (nothing to run; removed)",
    )


def _print_queue(queue: Resource) -> None:
    print_table([queue], _QUEUE, empty="")


def _print_check(report: Resource) -> None:
    print_table(report["items"], ("lane", "account", "kind", "detail"), empty="every invariant holds")
    console.print(f"{report['violations']} violations in {len(report['lanes'])} lanes", markup=False)


# --- lanes ---------------------------------------------------------------------------------------------------------


@lanes.command("list")
def list_lanes(*, watch: Watch = False, caller: Caller) -> None:
    """List lanes, with their counts over all accounts."""
    with caller.connect() as onelane:
        caller.show_rows(onelane.lanes.list, _LANE, empty="no lanes", watch=watch)


@lanes.command("heaviest")
def heaviest(
    lane: LaneArgument,
    *,
    by: Annotated[LoadKind, typer.Option(help="Seconds used in this hour, or messages waiting.")] = LoadKind.SECONDS,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many accounts.")] = 10,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List the accounts that use LANE most, and their share."""
    with caller.connect() as onelane:
        caller.show_rows(
            lambda: onelane.lanes.heaviest(lane, by=by.value, limit=limit), _LOAD, empty="no account", watch=watch
        )


@lanes.command("pause")
def pause_lane(lane: LaneArgument, caller: Caller) -> None:
    """Pause LANE for all accounts."""
    with caller.connect() as onelane:
        caller.show(onelane.lanes.pause(lane), _print_lane)


@lanes.command("resume")
def resume_lane(lane: LaneArgument, caller: Caller) -> None:
    """End LANE's pause for all accounts."""
    with caller.connect() as onelane:
        caller.show(onelane.lanes.resume(lane), _print_lane)


@lanes.command("limit")
def limit_lane(
    lane: LaneArgument,
    global_concurrency: Annotated[str, typer.Argument(help="Most steps at a time, or none.", metavar="NUMBER|none")],
    caller: Caller,
) -> None:
    """Limit the steps of LANE that run at one time, over all accounts and workers."""
    if global_concurrency != "none" and not global_concurrency.isdecimal():
        raise typer.BadParameter(f"{global_concurrency!r} is neither a number nor none")
    most = None if global_concurrency == "none" else int(global_concurrency)
    with caller.connect() as onelane:
        answer = onelane.lanes.put_limits(lane, global_concurrency=most)
    caller.report(answer, f"lane {lane}: {'no limit' if most is None else f'{most} at once'}")


def _print_lane(lane: Resource) -> None:
    print_table([lane], _LANE, empty="")


# --- workers, pipelines, the audit ---------------------------------------------------------------------------------


@workers.command("list")
def list_workers(*, watch: Watch = False, caller: Caller) -> None:
    """List live workers, and their running steps."""
    columns = ("id", "host", "pid", "lanes", "threads", "busy", "started_at", "heartbeat_at", "running")
    with caller.connect() as onelane:
        caller.show_rows(
            onelane.workers, columns, empty="no live workers: jobs wait", for_people=_with_running, watch=watch
        )


def _with_running(worker: Resource) -> Resource:
    return {**worker, "running": [f"{each['step']} of {each['account']}" for each in worker["running"]]}


@pipelines.command("list")
def list_pipelines(caller: Caller) -> None:
    """List the pipelines that are loaded."""
    with caller.connect() as onelane:
        columns = ("name", "steps", "lanes", "description")
        caller.show_rows(onelane.pipelines, columns, empty="no pipelines", for_people=_with_steps)


def _with_steps(pipeline: Resource) -> Resource:
    return {**pipeline, "steps": [step["name"] for step in pipeline["steps"]]}


@pipelines.command("get")
def get_pipeline(name: str, caller: Caller) -> None:
    """Show a pipeline's steps, and the schema of its input."""
    with caller.connect() as onelane:
        found = {each["name"]: each for each in onelane.pipelines()}
    if name not in found:
        raise typer.BadParameter(f"there is no pipeline {name!r}; there are {', '.join(sorted(found)) or 'none'}")
    caller.show(found[name], _print_pipeline)


def _print_pipeline(pipeline: Resource) -> None:
    console.print(f"{pipeline['name']}: {pipeline['description']}", markup=False, soft_wrap=True)
    columns = ("name", "lane", "time_limit", "max_attempts", "isolation", "effect", "required")
    print_table(pipeline["steps"], columns, empty="")
    console.print_json(json.dumps(pipeline["input_schema"], ensure_ascii=False))


def audit(
    *,
    actor: Annotated[str | None, typer.Option(help="Only by this actor, such as admin:admin.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as 'POST /v1/accounts/{account}:pause'.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Only on this target, such as /v1/accounts/acme/limits.")] = None,
    limit: Limit = 50,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List who changed what, when and from where, newest first; --json shows before and after."""
    with caller.connect() as onelane:
        columns = ("at", "actor", "address", "action", "target", "change")
        caller.show_rows(
            lambda: onelane.audit(limit=limit, actor=actor, action=action, target=target),
            columns,
            empty="nothing was changed",
            for_people=_with_change,
            watch=watch,
        )


def _with_change(entry: Resource) -> Resource:
    details = entry["details"] or {}
    before, after = details.get("before"), details.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        names = [name for name in after if before.get(name) != after[name] and not name.endswith("_at")]
        change = ", ".join(f"{name} {_plain(before.get(name))} → {_plain(after[name])}" for name in names)
    elif isinstance(after, str):
        change = f"{before} → {after}"
    else:
        change = "made" if before is None and after else "removed" if after is None and before else ""
    return {**entry, "change": change}


def _plain(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
