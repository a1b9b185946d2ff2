"""`onelane alerts …`: alerts, a test of their channels, and open circuits."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client import Resource
from ..exit_codes import FAILED
from ..terminal import say
from .context import Caller, CommandGroup, Limit, Watch
from .options import Account, Lane
from .output import print_table

group = CommandGroup("List alerts, test where they go, list open circuits.")


@group.command("list")
def list_alerts(
    *,
    account: Account = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as dead_letter.")] = None,
    limit: Limit = 50,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List alerts; equal events are one alert with a count. --json has ids, and commands that help."""
    with caller.connect() as onelane:
        columns = ("kind", "account", "about", "occurrences", "sent", "state", "last_at")
        caller.show_rows(
            lambda: onelane.alerts.list(limit=limit, account=account, kind=kind),
            columns,
            empty="no alerts",
            for_people=_for_people,
            watch=watch,
        )


def _for_people(alert: Resource) -> Resource:
    details = alert["details"]
    about = " ".join(str(details[name]) for name in ("lane", "pipeline", "step", "error_code") if details.get(name))
    return {**alert, "about": about or None, "sent": alert["told"]}


@group.command("test")
def test(caller: Caller) -> None:
    """Send a test message to each of the service's ONELANE_ALERT_URLS; status 1 unless all accept it."""
    with caller.connect() as onelane:
        answer = onelane.alerts.test()
    caller.show(answer, _print_channels)
    if not answer["items"] or not all(each["delivered"] for each in answer["items"]):
        raise typer.Exit(FAILED)


def _print_channels(answer: Resource) -> None:
    if not answer["items"]:
        say("the service has no ONELANE_ALERT_URLS: no alert is sent")
        return
    print_table(answer["items"], ("position", "kind", "delivered"), empty="")


@group.command("circuits")
def list_circuits(
    *, lane: Lane = None, account: Account = None, limit: Limit = 200, watch: Watch = False, caller: Caller
) -> None:
    """List the tenant queues that are stopped because too many of their steps failed in a row."""
    with caller.connect() as onelane:
        columns = ("queue", "lane", "account", "status", "failures", "opened_at", "until")
        caller.show_rows(
            lambda: onelane.alerts.circuits(limit=limit, lane=lane, account=account),
            columns,
            empty="no open circuits",
            watch=watch,
        )
