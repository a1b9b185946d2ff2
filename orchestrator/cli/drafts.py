"""`onelane drafts …` and `onelane publications …`: drafts, and publications of unknown outcome."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client import Resource
from ..terminal import console
from .context import Caller, CommandGroup, Limit, Watch, read_text
from .editor import edit
from .options import Account, DraftArgument, WithDraftStatus

group = CommandGroup("List, read and change drafts.")
publications = CommandGroup("Settle publications of unknown outcome.")


@group.command("list")
def list_drafts(
    *,
    account: Account = None,
    status: WithDraftStatus = None,
    limit: Limit = 50,
    watch: Watch = False,
    caller: Caller,
) -> None:
    """List drafts, newest first."""
    with caller.connect() as onelane:
        columns = ("id", "account", "title", "status", "version", "publication", "url", "created_at")
        caller.show_rows(
            lambda: onelane.drafts.list(limit=limit, account=account, status=status),
            columns,
            empty="no drafts",
            for_people=_with_publication,
            watch=watch,
        )


@group.command("get")
def get_draft(draft_id: DraftArgument, caller: Caller) -> None:
    """Show a draft."""
    with caller.connect() as onelane:
        caller.show(onelane.drafts.get(draft_id), _print_draft)


@group.command("edit")
def edit_draft(
    draft_id: DraftArgument,
    *,
    title: Annotated[str | None, typer.Option(help="Another title.")] = None,
    body: Annotated[str | None, typer.Option(help="Another body: Markdown, @file, or - for standard input.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="The new tags; may be given several times.")] = None,
    version: Annotated[int | None, typer.Option(help="Only if it is still at this version.")] = None,
    caller: Caller,
) -> None:
    """Change a draft that is not published yet; with no option, its body in $EDITOR."""
    text = None if body is None else read_text("--body", body)
    with caller.connect() as onelane:
        draft = onelane.drafts.get(draft_id)
        if title is None and text is None and not tag:
            text = edit(draft["body"])
            if text == draft["body"]:
                caller.report(draft, "nothing was changed")
                return
        at = draft["version"] if version is None else version
        changed = onelane.drafts.change(draft_id, at, title=title, body=text, tags=tag or None)
        caller.show(changed, _print_draft)


def _print_draft(draft: Resource) -> None:
    publication = draft["publication"]
    console.print(f"{draft['title']}  ({draft['status']}, version {draft['version']})", markup=False)
    if draft["tags"]:
        console.print(f"tags: {', '.join(draft['tags'])}", markup=False)
    if publication is not None:
        line = f"publication {publication['id']}: {publication['status']} {publication['url'] or ''}"
        console.print(line, markup=False, soft_wrap=True)
    console.print(draft["body"], markup=False, soft_wrap=True)


def _with_publication(draft: Resource) -> Resource:
    """The draft with its post's URL, and with the publication's id if a person has to settle it."""
    publication = draft["publication"] or {}
    unsure = publication.get("id") if draft["status"] == "needs_review" else None
    return {**draft, "publication": unsure, "url": publication.get("url")}


@publications.command("confirm")
def confirm(
    publication_id: str,
    post_url: Annotated[str, typer.Argument(help="The post's address.")],
    *,
    external_id: Annotated[str | None, typer.Option(help="The target's own id of the post.")] = None,
    caller: Caller,
) -> None:
    """Confirm that the post exists at POST_URL: the job continues without publishing."""
    with caller.connect() as onelane:
        caller.show(onelane.publications.confirm(publication_id, post_url, external_id), _print_publication)


@publications.command("retry")
def retry(publication_id: str, caller: Caller) -> None:
    """State that the post does not exist: the job publishes again, once."""
    with caller.connect() as onelane:
        caller.show(onelane.publications.retry(publication_id), _print_publication)


def _print_publication(publication: Resource) -> None:
    console.print(f"publication {publication['id']} is {publication['status']} now", markup=False)
