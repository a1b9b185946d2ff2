"""`onelane accounts …` and `onelane keys …`: accounts, what belongs to one, and who may speak for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import NotFound, Onelane, Resource
from ..terminal import console
from .context import Caller, Limit, Watch, expand_options, load, read_json, read_time
from .jobs import print_event
from .options import AccountArgument, WithAccountStatus
from .output import print_account, print_table

group = typer.Typer(help="Look at, limit, pause and steer accounts.", no_args_is_help=True)
limits = typer.Typer(help="Look at and change an account's limits.", no_args_is_help=True)
target = typer.Typer(help="Look at, set and clear where an account publishes.", no_args_is_help=True)
session = typer.Typer(help="Look at, set and clear what an account signs in with.", no_args_is_help=True)
keys = typer.Typer(help="Make, list and end API keys.", no_args_is_help=True)
for _name, _group in (("limits", limits), ("target", target), ("session", session)):
    group.add_typer(_group, name=_name)

_LANES = ("lane", "queue", "waiting", "active", "delayed", "oldest_wait", "paused", "circuit")


@group.command("list")
@expand_options
def list_accounts(
    *,
    q: Annotated[str | None, typer.Option("--search", help="The account begins with this.")] = None,
    status: WithAccountStatus = None,
    limit: Limit = 50,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List accounts, in the order of their names."""
    with caller.connect() as onelane:
        columns = ("account", "status", "created_at", "updated_at")
        caller.show_rows(
            lambda: onelane.accounts.list(limit=limit, q=q, status=status), columns, empty="no accounts", watch=watch
        )


@group.command("get")
@expand_options
def get_account(account: AccountArgument, caller: Caller) -> None:
    """Show an account: status, lanes, session, target, usage."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.get(account), _print_with_lanes)


@group.command("pause")
@expand_options
def pause(account: AccountArgument, caller: Caller) -> None:
    """Pause ACCOUNT: nothing new starts."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.pause(account), _print_with_lanes)


@group.command("resume")
@expand_options
def resume(account: AccountArgument, caller: Caller) -> None:
    """End a pause, a drain or a suspension, and close the circuits of ACCOUNT."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.resume(account), _print_with_lanes)


@group.command("drain")
@expand_options
def drain(account: AccountArgument, caller: Caller) -> None:
    """Take no new jobs of ACCOUNT; the rest finishes."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.drain(account), _print_with_lanes)


@group.command("suspend")
@expand_options
def suspend(account: AccountArgument, caller: Caller) -> None:
    """Take no new jobs of ACCOUNT, and let nothing of it start."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.suspend(account), _print_with_lanes)


@group.command("usage")
@expand_options
def usage(
    account: AccountArgument,
    *,
    first: Annotated[str | None, typer.Option(help="The first UTC day, such as 2026-11-01.")] = None,
    last: Annotated[str | None, typer.Option(help="The last UTC day; today when not given.")] = None,
    caller: Caller,
) -> None:
    """Show what ACCOUNT used, by UTC day; the last 30 days without --first and --last."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.usage(account, first=first, last=last), _print_usage)


def _print_usage(history: Resource) -> None:
    rows = [*history["items"], {"day": "total", **history["total"]}]
    print_table(rows, ("day", "jobs", "seconds", "tokens", "posts", "bytes"), empty="")


@group.command("events")
@expand_options
def events(account: AccountArgument, caller: Caller) -> None:
    """Print what happens to ACCOUNT's jobs as it comes, until Ctrl-C; with --json a line of JSON for each event."""
    with caller.connect() as onelane:
        for event in onelane.accounts.events(account):
            print_event(event.type, event.data, json=caller.json)


@group.command("webhook-secret")
@expand_options
def rotate_webhook_secret(account: AccountArgument, caller: Caller) -> None:
    """Make the secret with which ACCOUNT's webhooks are signed; it is shown once, and the old one signs a day more."""
    with caller.connect() as onelane:
        made = onelane.accounts.rotate_webhook_secret(account)
    caller.show(made, lambda answer: console.print(answer["secret"], markup=False, soft_wrap=True))


def _print_with_lanes(found: Resource) -> None:
    print_account(found)
    print_table(found["lanes"], _LANES, empty="no live tenant queues")


# --- limits --------------------------------------------------------------------------------------------------------

Number = Annotated[str | None, typer.Option(help="A number, or none.", metavar="NUMBER|none")]
_PER_LANE = "may be given several times"


@limits.command("get")
@expand_options
def get_limits(account: AccountArgument, caller: Caller) -> None:
    """Show ACCOUNT's limits."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.get(account)["limits"], _print_limits)


@limits.command("set")
@expand_options
def set_limits(
    account: AccountArgument,
    *,
    weight: Annotated[int | None, typer.Option(help="1 to 100: its share when others wait, too.")] = None,
    account_concurrency: Number = None,
    max_waiting: Number = None,
    daily_quota: Number = None,
    concurrency: Annotated[list[str] | None, typer.Option(help=f"LANE=NUMBER; {_PER_LANE}.")] = None,
    rate: Annotated[list[str] | None, typer.Option(help=f"LANE=NUMBER/SECONDS, or LANE=none; {_PER_LANE}.")] = None,
    ordering: Annotated[list[str] | None, typer.Option(help=f"LANE=relaxed or LANE=strict; {_PER_LANE}.")] = None,
    default: Annotated[bool, typer.Option("--default", help="What is not named goes back to its default.")] = False,
    caller: Caller,
) -> None:
    """Change ACCOUNT's limits, on what waits, too; what is not named stays."""
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
    """The account's limits; none where it comes into being with those that are set now."""
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


# --- target and session --------------------------------------------------------------------------------------------


@target.command("get")
@expand_options
def get_target(account: AccountArgument, caller: Caller) -> None:
    """Show where ACCOUNT publishes."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.target(account), _print_target)


@target.command("set")
@expand_options
def set_target(
    account: AccountArgument,
    publisher: Annotated[str, typer.Argument(help="wordpress, demo, …")],
    base_url: Annotated[str, typer.Argument(help="Where its site is.")],
    *,
    options: Annotated[str | None, typer.Option(help="What the publisher takes: a JSON object, @file, or -.")] = None,
    caller: Caller,
) -> None:
    """Set where ACCOUNT publishes."""
    given = None if options is None else read_json("--options", options, dict)
    with caller.connect() as onelane:
        caller.show(onelane.accounts.put_target(account, publisher, base_url, given), _print_target)


@target.command("clear")
@expand_options
def clear_target(account: AccountArgument, caller: Caller) -> None:
    """Forget where ACCOUNT publishes."""
    with caller.connect() as onelane:
        onelane.accounts.delete_target(account)
    caller.tell({"cleared": "target"}, f"{account} publishes nowhere now")


def _print_target(found: Resource) -> None:
    names = f"  ({', '.join(found['options'])})" if found["options"] else ""
    console.print(f"{found['publisher']} at {found['base_url']}{names}", markup=False, soft_wrap=True)


@session.command("get")
@expand_options
def get_session(account: AccountArgument, caller: Caller) -> None:
    """Show the state of ACCOUNT's session; what is in it is never shown."""
    with caller.connect() as onelane:
        caller.show(onelane.accounts.session(account), _print_session)


@session.command("set")
@expand_options
def set_session(
    account: AccountArgument,
    *,
    username: Annotated[str | None, typer.Option(help="What ACCOUNT signs in with; the password is asked for.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input instead.")
    ] = False,
    storage_state: Annotated[
        str | None, typer.Option(help="Cookies and localStorage as Playwright saves them: @file, or -.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="When the storage state ends, with its offset.")] = None,
    caller: Caller,
) -> None:
    """Set what ACCOUNT signs in with; it is sealed, and ends a pause that the lack of it had made."""
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
    """Never an option's value, which everybody on the machine could read in the list of processes."""
    if from_standard_input:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise typer.BadParameter("standard input is no terminal to ask for the password: give --password-stdin")
    return str(typer.prompt("Password", hide_input=True, err=True))


@session.command("clear")
@expand_options
def clear_session(account: AccountArgument, caller: Caller) -> None:
    """Forget what ACCOUNT signs in with."""
    with caller.connect() as onelane:
        onelane.accounts.delete_session(account)
    caller.tell({"cleared": "session"}, f"{account} has no session now")


def _print_session(found: Resource) -> None:
    until = f", until {found['expires_at']}" if found["expires_at"] else ""
    console.print(f"session {found['status']}{until}", markup=False)


# --- keys ----------------------------------------------------------------------------------------------------------


@keys.command("create")
@expand_options
def create_key(
    *,
    account: Annotated[str | None, typer.Argument(help="Whose own rows it opens.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="A key for everything, straight into the database.")] = False,
    name: Annotated[str, typer.Option(help="A note, to know it by.")] = "",
    expires_at: Annotated[str | None, typer.Option(help="When it ends, with its offset.")] = None,
    caller: Caller,
) -> None:
    """Make an API key for ACCOUNT, or with --admin one for everything. It is shown once."""
    if admin == (account is not None):
        raise typer.BadParameter("give an account, or --admin; not both")
    moment = read_time("--expires-at", expires_at)
    if account is not None:
        with caller.connect() as onelane:
            made: Resource = onelane.accounts.create_key(account, name, expires_at=moment)
    else:
        made = _create_admin_key(caller.data_dir, name, moment)
    caller.show(made, lambda _: console.print(made["key"], markup=False, soft_wrap=True))


@keys.command("list")
@expand_options
def list_keys(account: AccountArgument, *, limit: Limit = 50, caller: Caller) -> None:
    """List ACCOUNT's keys, without what opens the door."""
    with caller.connect() as onelane:
        columns = ("id", "name", "hint", "created_at", "expires_at", "last_used_at")
        caller.show_rows(lambda: onelane.accounts.keys(account, limit=limit), columns, empty="no keys")


@keys.command("delete")
@expand_options
def delete_key(
    account: AccountArgument,
    key_id: Annotated[str | None, typer.Argument(help="The key's id.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every key of ACCOUNT.")] = False,
    caller: Caller,
) -> None:
    """End a key of ACCOUNT, or with --all every one, at once."""
    if every == (key_id is not None):
        raise typer.BadParameter("give a key's id, or --all; not both")
    with caller.connect() as onelane:
        if key_id is not None:
            onelane.accounts.delete_key(account, key_id)
        else:
            onelane.accounts.delete_keys(account)
    caller.tell({"deleted": key_id or "all"}, f"ended {key_id or f'every key of {account}'}")


def _create_admin_key(data_dir: Path | None, name: str, expires_at: Any) -> Resource:
    from tenants.database import Database
    from tenants.store import keys as store

    database = Database(load(data_dir).database_url)
    secret = store.make_key()
    try:
        row = database.write(
            lambda connection: store.create(
                connection, secret, scope="admin", account=None, name=name, expires_at=expires_at
            )
        )
    finally:
        database.close()
    return {"id": row["id"], "scope": "admin", "name": name, "key": secret}
