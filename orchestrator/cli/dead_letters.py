"""`onelane dead-letters …`: steps that failed for good, one by one and by filter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from ..client import Resource
from ..terminal import console, escape
from .context import Caller, CommandGroup, Limit, Watch
from .options import Account, Lane, LetterArgument, Pipeline
from .output import ago, print_job, print_table

group = CommandGroup("List, replay and discard steps that will not be tried again.")

ErrorCode = Annotated[str | None, typer.Option(help="Only with this error code, such as login_required.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list them.")]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Filters of dead letters."""

    account: Account = None
    lane: Lane = None
    pipeline: Pipeline = None
    error_code: ErrorCode = None

    def chosen(self) -> dict[str, Any]:
        return asdict(self)


@group.command("list")
def list_dead_letters(*, selection: Selection, limit: Limit = 50, watch: Watch = False, caller: Caller) -> None:
    """List dead letters, newest first."""
    with caller.connect() as onelane:
        columns = ("id", "account", "lane", "actor", "error_code", "attempt_count", "created_at")
        caller.show_rows(
            lambda: onelane.dead_letters.list(limit=limit, **selection.chosen()),
            columns,
            empty="no dead letters",
            watch=watch,
        )


@group.command("get")
def get_dead_letter(dead_letter_id: LetterArgument, caller: Caller) -> None:
    """Show a dead letter with message, error, traceback and attempts."""
    with caller.connect() as onelane:
        caller.show(onelane.dead_letters.get(dead_letter_id), _print_letter)


@group.command("replay")
def replay_dead_letter(dead_letter_id: LetterArgument, caller: Caller) -> None:
    """Continue the job at the failed step."""
    with caller.connect() as onelane:
        caller.show(onelane.dead_letters.replay(dead_letter_id), print_job)


@group.command("discard")
def discard_dead_letter(dead_letter_id: LetterArgument, caller: Caller) -> None:
    """Discard a dead letter; its job stays failed."""
    with caller.connect() as onelane:
        onelane.dead_letters.discard(dead_letter_id)
    caller.report({"discarded": dead_letter_id}, f"discarded {dead_letter_id}")


@group.command("replay-all")
def replay_all(
    *,
    selection: Selection,
    per_second: Annotated[float | None, typer.Option(help="Most jobs that become due per second.")] = None,
    dry_run: DryRun = False,
    caller: Caller,
) -> None:
    """Replay all matching dead letters, the oldest first, at most 1,000 per call."""
    with caller.connect() as onelane:
        answer = onelane.dead_letters.replay_all(**selection.chosen(), per_second=per_second, dry_run=dry_run)
    caller.show(answer, lambda _: _print_resolved(answer, "replayed", dry_run))


@group.command("discard-all")
def discard_all(*, selection: Selection, dry_run: DryRun = False, caller: Caller) -> None:
    """Discard all matching dead letters, at most 1,000 per call; their jobs stay failed."""
    with caller.connect() as onelane:
        answer = onelane.dead_letters.discard_all(**selection.chosen(), dry_run=dry_run)
    caller.show(answer, lambda _: _print_resolved(answer, "discarded", dry_run))


def _print_resolved(answer: Resource, done: str, dry_run: bool) -> None:
    if dry_run:
        console.print(f"{answer['matched']} match, and would be {done}", markup=False)
        for each in answer["ids"]:
            console.print(f"  {each}", markup=False)
        return
    console.print(f"{answer['resolved']} {done}, {answer['skipped']} skipped, {answer['left']} left", markup=False)
    if answer["stopped"] is not None:
        console.print(f"stopped early: {answer['stopped']}", markup=False)


def _print_letter(letter: Resource) -> None:
    state = f"{letter['resolution']} {ago(letter['resolved_at'])}" if letter["resolution"] else "open"
    console.print(f"[bold]{escape(letter['id'])}[/]  {state}")
    whose = letter["account"] or "no account"
    console.print(
        f"  {letter['actor']} of {whose} on lane {letter['lane']}, job {letter['job_id'] or '-'}", markup=False
    )
    console.print(f"  [red]{escape(letter['error_code'])}[/]: {escape(letter['error']['message'])}")
    columns = ("number", "worker", "started_at", "outcome", "error")
    print_table(letter["attempts"], columns, empty="no attempts are known")
    if letter["traceback"]:
        console.print(letter["traceback"], markup=False, soft_wrap=True)
