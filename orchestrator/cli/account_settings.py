"""`onelane accounts limits | target | session`: limits, publishing target and sign-in."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..client import NotFound, Onelane, Resource
from ..terminal import console
from .context import Caller, CommandGroup, read_json, read_time
from .options import AccountArgument

limits = CommandGroup("Look at and change an account's limits.")
target = CommandGroup("Look at, set and clear where an account publishes.")
session = CommandGroup("Look at, set and clear what an account signs in with.")

Number = Annotated[str | None, typer.Option(help="A number, or none.", metavar="NUMBER|none")]
_PER_LANE = "may be given several times"


@limits.command("get")
def get_limits(account: AccountArgument, caller: Caller) -> None:
    """Show ACCOUNT's limits."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.get(account)["limits"], _print_limits)


@limits.command("set")
def set_limits(
    account: AccountArgument,
    *,
    weight: Annotated[int | None, typer.Option(help="1 to 100: its share while other accounts wait.")] = None,
    account_concurrency: Number = None,
    max_waiting: Number = None,
    daily_quota: Number = None,
    concurrency: Annotated[list[str] | None, typer.Option(help=f"LANE=NUMBER; {_PER_LANE}.")] = None,
    rate: Annotated[list[str] | None, typer.Option(help=f"LANE=NUMBER/SECONDS, or LANE=none; {_PER_LANE}.")] = None,
    ordering: Annotated[list[str] | None, typer.Option(help=f"LANE=relaxed or LANE=strict; {_PER_LANE}.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Set the other limits to their defaults.")] = False,
    caller: Caller,
) -> None:
    """Change ACCOUNT's limits, also for waiting jobs; the others stay."""
    plain = {"account_concurrency": account_concurrency, "max_waiting": max_waiting, "daily_quota": daily_quota}
    changes: dict[str, Any] = {name: _number(name, text) for name, text in plain.items() if text is not None}
    if weight is not None:
        changes["weight"] = weight
    lanes: dict[str, dict[str, Any]] = {}
    for option, texts, read in (
        ("concurrency", concurrency, _number),
        ("rate", rate, _rate),
        ("ordering", ordering, lambda _, text: text),
    ):
        for text in texts or ():
            lane, found, value = text.partition("=")
            if not found:
                raise typer.BadParameter(f"--{option}: {text!r} is not like publish=…")
            lanes.setdefault(lane, {})[option] = read(option, value)
    if not changes and not lanes and not default:
        raise typer.BadParameter("name at least one limit, or --default")
    with caller.connect() as onelane:
        kept: dict[str, Any] = {} if default else _limits_now(onelane, account)
        for lane, values in lanes.items():
            kept["lanes"] = {**kept.get("lanes", {}), lane: {**kept.get("lanes", {}).get(lane, {}), **values}}
        caller.show(onelane.accounts.put_limits(account, **{**kept, **changes}), _print_limits)


def _limits_now(onelane: Onelane, account: str) -> dict[str, Any]:
    """The account's limits; none if the account does not exist yet."""
    try:
        return dict(onelane.accounts.get(account)["limits"])
    except NotFound:
        return {}


def _number(option: str, text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"--{option.replace('_', '-')}: {text!r} is neither a number nor none")
    return int(text)


def _rate(option: str, text: str) -> dict[str, Any] | None:
    if text == "none":
        return None
    limit, _, per = text.partition("/")
    try:
        return {"limit": int(limit), "per": float(per)}
    except ValueError:
        raise typer.BadParameter(f"--{option}: {text!r} is not like 10/3600, ten in an hour") from None


def _print_limits(found: Resource) -> None:
    for name in ("weight", "account_concurrency", "max_waiting", "daily_quota"):
        value = found[name]
        console.print(f"  {name.replace('_', ' '):20} {'none' if value is None else value}", markup=False)
    for lane, each in found["lanes"].items():
        rate = "no rate" if each["rate"] is None else f"{each['rate']['limit']} in {each['rate']['per']:g} s"
        console.print(f"  lane {lane:15} {each['concurrency']} at once, {rate}, {each['ordering']}", markup=False)


@target.command("get")
def get_target(account: AccountArgument, caller: Caller) -> None:
    """Show where ACCOUNT publishes."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.target(account), _print_target)


@target.command("set")
def set_target(
    account: AccountArgument,
    publisher: Annotated[str, typer.Argument(help="wordpress, demo, …")],
    base_url: Annotated[str, typer.Argument(help="The address of its site.")],
    *,
    options: Annotated[str | None, typer.Option(help="The publisher's options: a JSON object, @file, or -.")] = None,
    caller: Caller,
) -> None:
    """Set where ACCOUNT publishes."""
    given = None if options is None else read_json("--options", options, dict)
    with caller.connect() as onelane:
        caller.show(onelane.accounts.put_target(account, publisher, base_url, given), _print_target)


@target.command("clear")
def clear_target(account: AccountArgument, caller: Caller) -> None:
    """Delete ACCOUNT's publishing target."""
    with caller.connect() as onelane:
        onelane.accounts.delete_target(account)
    caller.report({"cleared": "target"}, f"{account} has no target now")


def _print_target(found: Resource) -> None:
    names = f"  ({', '.join(found['options'])})" if found["options"] else ""
    console.print(f"{found['publisher']} at {found['base_url']}{names}", markup=False, soft_wrap=True)


@session.command("get")
def get_session(account: AccountArgument, caller: Caller) -> None:
    """Show the state of ACCOUNT's session; its content is never shown."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.session(account), _print_session)


@session.command("set")
def set_session(
    account: AccountArgument,
    *,
    username: Annotated[str | None, typer.Option(help="ACCOUNT's user name; the password is asked for.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input instead.")
    ] = False,
    storage_state: Annotated[
        str | None, typer.Option(help="Cookies and localStorage as Playwright saves them: @file, or -.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="When the storage state expires: a time with offset.")] = None,
    caller: Caller,
) -> None:
    """Set ACCOUNT's session or credentials. They are stored sealed; a pause for a missing session ends."""
    if username is None and storage_state is None:
        raise typer.BadParameter("give --username, --storage-state, or both")
    state = None if storage_state is None else read_json("--storage-state", storage_state, dict)
    moment = read_time("--expires-at", expires_at)
    credentials = None if username is None else (username, _password(password_stdin))
    with caller.connect() as onelane:
        described = onelane.accounts.put_session(
            account, storage_state=state, credentials=credentials, expires_at=moment
        )
        caller.show(described, _print_session)


def _password(from_standard_input: bool) -> str:
    """Read the password: as an option's value, other users could read it in the list of processes."""
    if from_standard_input:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise typer.BadParameter("standard input is no terminal to ask for the password: give --password-stdin")
    return str(typer.prompt("Password", hide_input=True, err=True))


@session.command("clear")
def clear_session(account: AccountArgument, caller: Caller) -> None:
    """Delete ACCOUNT's session and credentials."""
    with caller.connect() as onelane:
        onelane.accounts.delete_session(account)
    caller.report({"cleared": "session"}, f"{account} has no session now")


def _print_session(found: Resource) -> None:
    until = f", until {found['expires_at']}" if found["expires_at"] else ""
    console.print(f"session {found['status']}{until}", markup=False)
