"""`onelane schedules …`: create, list, show, change, preview, run and delete schedules."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from ..client import Resource
from ..terminal import console, escape
from .context import Caller, CommandGroup, Idempotency, Limit, Watch, read_json
from .options import Account, AccountArgument, PipelineArgument, ScheduleArgument
from .output import ago, print_job

group = CommandGroup("Make, list, look at, change, preview and run schedules.")

Cron = Annotated[str | None, typer.Option(help="Five fields, such as '0 9 * * 1-5'.")]
Every = Annotated[float | None, typer.Option(help="Seconds from one fire to the next.")]
At = Annotated[list[str] | None, typer.Option(help="A time with offset; may be given several times.")]
Spread = Annotated[str | None, typer.Option(help="Fires per day at random times: N, or N@09:00-21:00.")]
MinGap = Annotated[float | None, typer.Option(help="With --spread: least seconds between two fires.")]
Input = Annotated[str | None, typer.Option("--input", help="The input: JSON, @file, or - for standard input.")]
Inputs = Annotated[str | None, typer.Option("--inputs", help="One input a fire: a JSON array, @file, or -.")]
Zone = Annotated[str | None, typer.Option("--timezone", help="IANA name, such as Europe/Berlin; UTC when not given.")]
Jitter = Annotated[float | None, typer.Option(help="Most seconds of a random delay of each fire.")]
Approval = Annotated[
    bool | None, typer.Option("--approval/--no-approval", help="Each job stops before its last step until approved.")
]
CallbackUrl = Annotated[str | None, typer.Option(help="Called, signed, when a job of the schedule has ended.")]
Priority = Annotated[int | None, typer.Option(min=0, max=9, help="Of its jobs: 0 first; 5 when not given.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="For each of its jobs; may be given several times.")]
Overlap = Annotated[str | None, typer.Option(help="queue, skip or replace.")]
CatchUp = Annotated[str | None, typer.Option("--catch-up", help="none, one or all.")]
Starts = Annotated[str | None, typer.Option("--starts-at", help="No fire before this time.")]
Ends = Annotated[str | None, typer.Option("--ends-at", help="No fire after this time.")]

_COLUMNS = ("id", "account", "name", "pipeline", "cadence", "enabled", "next_fire_at", "last_fire_at")


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """When a schedule fires; None: not given."""

    cron: Cron = None
    every: Every = None
    at: At = None
    spread: Spread = None
    min_gap: MinGap = None
    timezone: Zone = None
    jitter: Jitter = None
    starts_at: Starts = None
    ends_at: Ends = None

    def fields(self) -> dict[str, Any]:
        """The API's fields of the given options; the service checks the values.

        Raises:
            BadParameter: an option cannot be read, or needs another one.
        """
        if self.min_gap is not None and self.spread is None:
            raise typer.BadParameter("--min-gap goes with --spread")
        read = {
            "at": self.at or None,
            "spread": None if self.spread is None else _spread(self.spread, self.min_gap),
            "min_gap": None,
        }
        return _given(**(asdict(self) | read))


@dataclass(frozen=True, kw_only=True)
class Plan(Cadence):
    """When a schedule fires, and the jobs that it creates; None: not given."""

    input: Input = None
    inputs: Inputs = None
    approval: Approval = None
    callback_url: CallbackUrl = None
    priority: Priority = None
    tag: Tags = None
    overlap: Overlap = None
    catch_up: CatchUp = None

    def fields(self) -> dict[str, Any]:
        given = super().fields()
        tags = given.pop("tag", None)
        if tags:
            given["tags"] = tags
        if self.input is not None:
            given["input"] = read_json("--input", self.input, dict)
        if self.inputs is not None:
            given["inputs"] = read_json("--inputs", self.inputs, list)
        return given


@group.command("create")
def create_schedule(
    account: AccountArgument,
    name: str,
    pipeline: PipelineArgument,
    *,
    plan: Plan,
    disabled: Annotated[bool, typer.Option("--disabled", help="Create it turned off.")] = False,
    idempotency_key: Idempotency = None,
    caller: Caller,
) -> None:
    """Create a schedule NAME for ACCOUNT that runs PIPELINE."""
    fields = plan.fields()
    if disabled:
        fields["enabled"] = False
    with caller.connect() as onelane:
        made = onelane.schedules.create(account, name, pipeline, idempotency_key=idempotency_key, **fields)
        caller.show(made, _print)


@group.command("change")
def change_schedule(
    schedule_id: ScheduleArgument,
    *,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Another pipeline.")] = None,
    plan: Plan,
    caller: Caller,
) -> None:
    """Change a schedule; other fields stay."""
    fields = plan.fields() | _given(name=name, pipeline=pipeline)
    if not fields:
        raise typer.BadParameter("give at least one field to change")
    with caller.connect() as onelane:
        caller.show(onelane.schedules.change(schedule_id, **fields), _print)


@group.command("pause")
def pause_schedule(schedule_id: ScheduleArgument, caller: Caller) -> None:
    """Turn a schedule off."""
    with caller.connect() as onelane:
        caller.show(onelane.schedules.change(schedule_id, enabled=False), _print)


@group.command("resume")
def resume_schedule(schedule_id: ScheduleArgument, caller: Caller) -> None:
    """Turn a schedule on again; it continues with its next time."""
    with caller.connect() as onelane:
        caller.show(onelane.schedules.change(schedule_id, enabled=True), _print)


@group.command("list")
def list_schedules(*, account: Account = None, limit: Limit = 50, watch: Watch = False, caller: Caller) -> None:
    """List schedules, newest first."""
    with caller.connect() as onelane:
        caller.show_rows(
            lambda: onelane.schedules.list(limit=limit, account=account),
            _COLUMNS,
            empty="no schedules",
            for_people=_with_cadence,
            watch=watch,
        )


@group.command("get")
def get_schedule(schedule_id: ScheduleArgument, caller: Caller) -> None:
    """Show a schedule."""
    with caller.connect() as onelane:
        caller.show(onelane.schedules.get(schedule_id), _print)


@group.command("fires")
def list_fires(schedule_id: ScheduleArgument, *, limit: Limit = 50, watch: Watch = False, caller: Caller) -> None:
    """List a schedule's fires: the job, or why it was refused."""
    with caller.connect() as onelane:
        columns = ("fire_at", "outcome", "job_id", "error")
        caller.show_rows(
            lambda: onelane.schedules.fires(schedule_id, limit=limit),
            columns,
            empty="it has not fired yet",
            watch=watch,
        )


@group.command("run")
def run_schedule(
    schedule_id: ScheduleArgument,
    *,
    idempotency_key: Idempotency = None,
    caller: Caller,
) -> None:
    """Create a schedule's job now; its times stay."""
    with caller.connect() as onelane:
        caller.show(onelane.schedules.run(schedule_id, idempotency_key=idempotency_key), print_job)


@group.command("preview")
def preview_schedule(
    *,
    cadence: Cadence,
    account: Annotated[str | None, typer.Option(help="Its account; jitter and spread depend on it.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name; jitter and spread depend on it.")] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many times.")] = 10,
    caller: Caller,
) -> None:
    """Show the next times of a schedule that need not exist."""
    fields = cadence.fields()
    with caller.connect() as onelane:
        times = onelane.schedules.preview(count=count, **fields, **_given(account=account, name=name))
    caller.show({"items": list(times)}, _print_times)


@group.command("delete")
def delete_schedule(schedule_id: ScheduleArgument, caller: Caller) -> None:
    """Delete a schedule; its jobs stay."""
    with caller.connect() as onelane:
        onelane.schedules.delete(schedule_id)
    caller.report({"deleted": schedule_id}, f"deleted {schedule_id}")


def _spread(text: str, min_gap: float | None) -> dict[str, Any]:
    number, _, window = text.partition("@")
    first, _, last = (window or "00:00-24:00").partition("-")
    if not number.isdecimal() or not last:
        raise typer.BadParameter(f"--spread: {text!r} is not like 5 or 5@09:00-21:00")
    return {"per_day": int(number), "window": [first, last], **_given(min_gap=min_gap)}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _with_cadence(schedule: Resource) -> Resource:
    return {**schedule, "cadence": _in_words(schedule)}


def _print_times(answer: Resource) -> None:
    for each in answer["items"]:
        console.print(f"{each}  {ago(each)}", markup=False)


def _in_words(schedule: Resource) -> str:
    """Its cadence on one line."""
    if schedule["cron"] is not None:
        words = schedule["cron"]
    elif schedule["every"] is not None:
        words = f"every {schedule['every']:g} s"
    elif schedule["at"] is not None:
        words = f"{len(schedule['at'])} given times"
    else:
        spread = schedule["spread"]
        words = f"{spread['per_day']} a day, {'-'.join(spread['window'])}"
    return words if schedule["timezone"] == "UTC" else f"{words} ({schedule['timezone']})"


def _print(schedule: Resource) -> None:
    state = "" if schedule["enabled"] else "  off"
    console.print(f"[bold]{escape(schedule['id'])}[/]  {escape(schedule['name'])}{state}")
    console.print(f"  {schedule['pipeline']} for {schedule['account']}: {_in_words(schedule)}", markup=False)
    coming = schedule["next_fire_at"]
    console.print(f"  next: {f'{coming} ({ago(coming)})' if coming else 'never'}", markup=False)
    console.print(f"  overlap {schedule['overlap']}, catch up {schedule['catch_up']}", markup=False)
    if schedule["approval"]:
        console.print("  each job waits for approval before its last step", markup=False)
    if schedule["callback_url"] is not None:
        console.print(f"  calls {schedule['callback_url']} when a job has ended", markup=False)
    if schedule["inputs_left"] is not None:
        console.print(f"  inputs left: {schedule['inputs_left']}", markup=False)
