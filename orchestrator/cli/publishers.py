"""`onelane publishers …`: the known publishers, and a trial of one against its real target.

Both use the settings of this host: a trial opens the account's sealed session, which no HTTP call may show.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..exit_codes import FAILED
from ..terminal import console, print_json, say
from .context import CommandGroup, DataDir, Json, load
from .output import print_table

group = CommandGroup("List publishers, and try one against its real target.")


@group.command("list")
def list_publishers(data_dir: DataDir = None, json: Json = False) -> None:
    """List the publishers that this host's settings and packages name."""
    from actors.clients.publishers import class_of, load_publishers
    from actors.clients.publishers.base import capabilities

    known = load_publishers(load(data_dir, check_alert_urls=False).publishers).values()
    rows = [
        {
            "publisher": each.name,
            "from": each.origin,
            "class": each.reference,
            "capabilities": sorted(capabilities(class_of(each.reference))),
        }
        for each in sorted(known, key=lambda each: each.name)
    ]
    if json:
        print_json({"items": rows})
    else:
        shown = [{**row, "capabilities": ", ".join(row["capabilities"]) or "-"} for row in rows]
        print_table(shown, ("publisher", "from", "class", "capabilities"), empty="")


@group.command("try")
def try_publisher(
    name: Annotated[str, typer.Argument(help="The publisher, as `onelane publishers list` names it.")],
    *,
    account: Annotated[str, typer.Option(help="Whose target and session to use.")],
    base_url: Annotated[
        str | None, typer.Option(help="Publish there, without options, instead of at the account's target.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove the post.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Publish one trial post with NAME as ACCOUNT, without a job: session, find, publish, read back, find again.

    The post is public. It is removed at the end if the publisher can remove posts; otherwise remove it by hand. The
    trial does not take the account's slot on the publish lane: pause the account first if its jobs must not publish at
    the same time. The status is 0 only if every stage follows the protocol.
    """
    from ..worker.publisher_trial import prepared

    with prepared(load(data_dir, check_alert_urls=False), name, account, base_url=base_url, keep=keep) as trial:
        if not yes and sys.stdin.isatty():
            typer.confirm(f"Publish a trial post at {trial.base_url} as account {account!r}?", abort=True, err=True)
        stages = []
        for stage in trial.stages():
            stages.append(stage)
            if not json:
                mark = "[green]ok[/]    " if stage.ok else "[red]failed[/]"
                console.print(f"{mark} {stage.name:<10} {stage.seconds:6.2f} s  ", end="")
                console.print(stage.detail, markup=False, soft_wrap=True)
        ok, left = all(stage.ok for stage in stages), trial.url
    if json:
        print_json(
            {
                "publisher": name,
                "account": account,
                "base_url": trial.base_url,
                "marker": trial.marker,
                "ok": ok,
                "url": left,
                "stages": [
                    {"name": each.name, "ok": each.ok, "detail": each.detail, "seconds": each.seconds}
                    for each in stages
                ],
            }
        )
    elif left:
        say(f"the trial post is still at {left}: remove it by hand")
    if not ok:
        raise typer.Exit(FAILED)
