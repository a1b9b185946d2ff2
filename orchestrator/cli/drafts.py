"""`onelane drafts …` and `onelane publications …`: what was written, and unknown outcomes settled by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client import Resource
from .context import Account, DataDir, Json, Key, Limit, Url, connect
from .output import console, print_json, print_rows

group = typer.Typer(help="List and read drafts.", no_args_is_help=True)
publications = typer.Typer(help="Settle publications whose outcome nobody could tell.", no_args_is_help=True)


@group.command("list")
def list_drafts(
    account: Account = None,
    status: Annotated[str | None, typer.Option(help="Only with this status, such as needs_review.")] = None,
    limit: Limit = 50,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List drafts, newest first."""
    with connect(data_dir, url, key) as onelane:
        found = onelane.drafts.list(limit=limit, account=account, status=status)
        shown = (each if json else _with_publication(each) for each in found)
        columns = ("id", "account", "title", "status", "version", "publication", "url", "created_at")
        print_rows(shown, columns, json=json, empty="no drafts")


@group.command("get")
def get_draft(draft_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show a draft whole."""
    with connect(data_dir, url, key) as onelane:
        draft = onelane.drafts.get(draft_id)
    if json:
        print_json(draft)
        return
    shown = _with_publication(draft)
    console.print(f"{draft['title']}  ({draft['status']}, version {draft['version']})", markup=False)
    if shown["publication"]:
        console.print(f"publication {shown['publication']}: {shown['outcome']} {shown['url'] or ''}", markup=False)
    console.print(draft["body"], markup=False, soft_wrap=True)


def _with_publication(draft: Resource) -> Resource:
    publication = draft["publication"] or {}
    return {
        **draft,
        "publication": publication.get("id"),
        "outcome": publication.get("status"),
        "url": publication.get("url"),
    }


@publications.command("confirm")
def confirm(
    publication_id: str,
    post_url: Annotated[str, typer.Argument(help="Where the post was found.")],
    external_id: Annotated[str | None, typer.Option(help="The target's own id of the post.")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Say that the post is there, at POST_URL: the job goes on without publishing."""
    with connect(data_dir, url, key) as onelane:
        _print_publication(onelane.publications.confirm(publication_id, post_url, external_id), json=json)


@publications.command("retry")
def retry(publication_id: str, url: Url = None, key: Key = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Say that the post is not there: the job publishes anew, once."""
    with connect(data_dir, url, key) as onelane:
        _print_publication(onelane.publications.retry(publication_id), json=json)


def _print_publication(publication: Resource, *, json: bool) -> None:
    if json:
        print_json(publication)
    else:
        console.print(f"publication {publication['id']} is {publication['status']} now", markup=False)
