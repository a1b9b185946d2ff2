"""`onelane drafts …` and `onelane publications …`: what was written, and unknown outcomes settled by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client import Resource
from .context import Account, Caller, Limit, expand_options
from .output import console

group = typer.Typer(help="List and read drafts.", no_args_is_help=True)
publications = typer.Typer(help="Settle publications whose outcome nobody could tell.", no_args_is_help=True)


@group.command("list")
@expand_options
def list_drafts(
    *,
    account: Account = None,
    status: Annotated[str | None, typer.Option(help="Only with this status, such as needs_review.")] = None,
    limit: Limit = 50,
    caller: Caller,
) -> None:
    """List drafts, newest first."""
    with caller.connect() as onelane:
        found = onelane.drafts.list(limit=limit, account=account, status=status)
        columns = ("id", "account", "title", "status", "version", "publication", "url", "created_at")
        caller.show_rows(found, columns, empty="no drafts", for_people=_with_publication)


@group.command("get")
@expand_options
def get_draft(draft_id: str, caller: Caller) -> None:
    """Show a draft whole."""
    with caller.connect() as onelane:
        caller.show(onelane.drafts.get(draft_id), _print_draft)


def _print_draft(draft: Resource) -> None:
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
@expand_options
def confirm(
    publication_id: str,
    post_url: Annotated[str, typer.Argument(help="Where the post was found.")],
    *,
    external_id: Annotated[str | None, typer.Option(help="The target's own id of the post.")] = None,
    caller: Caller,
) -> None:
    """Say that the post is there, at POST_URL: the job goes on without publishing."""
    with caller.connect() as onelane:
        caller.show(onelane.publications.confirm(publication_id, post_url, external_id), _print_publication)


@publications.command("retry")
@expand_options
def retry(publication_id: str, caller: Caller) -> None:
    """Say that the post is not there: the job publishes anew, once."""
    with caller.connect() as onelane:
        caller.show(onelane.publications.retry(publication_id), _print_publication)


def _print_publication(publication: Resource) -> None:
    console.print(f"publication {publication['id']} is {publication['status']} now", markup=False)
