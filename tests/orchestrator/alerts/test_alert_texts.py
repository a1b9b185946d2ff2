"""What alerts say: that the commands in them are there, and that an account's name cannot become another command."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
import typer.main

from orchestrator.alerts.texts import text_of
from orchestrator.cli.app import app
from tenants.store.dead_letters.alerts import Kind

TIME = datetime(2026, 11, 21, 22, 5, tzinfo=UTC)
DETAILS = {
    "lane": "publish",
    "pipeline": "blog",
    "step": "publish",
    "error_code": "publish_failed",
    "job_id": "j1",
    "dead_letter_id": "d1",
    "publication_id": "p1",
}


def alert(kind: str, account: str | None = "acme", **more: Any) -> dict[str, Any]:
    row = {"kind": kind, "account": account, "details": DETAILS, "telling": 1, "told": 0, "sent_at": None}
    return {**row, "first_at": TIME, "last_at": TIME, **more}


def commands_of(body: str) -> list[list[str]]:
    return [shlex.split(line) for line in body.splitlines() if line.startswith("onelane ")]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_its_commands_are_there(kind: str) -> None:
    found = commands_of(text_of([alert(kind)], left=9, per_hour=60).body)
    assert found or kind == "circuit_closed"
    for words in [*found, *commands_of(text_of([alert(kind), alert(kind)], left=9, per_hour=60).body)]:
        command: Any = typer.main.get_command(app)
        left = words[1:]
        while hasattr(command, "commands"):
            command = command.commands[left.pop(0)]
        command.make_context("x", left)


def test_an_account_stays_one_word_of_a_shell() -> None:
    """Its name is a customer's, and the command is there to be copied."""
    name = "x'; rm -rf $HOME #"
    (listing, _) = commands_of(text_of([alert("dead_letter", name)], left=9, per_hour=60).body)
    assert listing == ["onelane", "dead-letters", "list", "--account", name]


def test_the_last_of_the_hour_says_so() -> None:
    assert "the last of 60 messages" in text_of([alert("dead_letter")], left=0, per_hour=60).body


def test_several_are_listed_by_kind_and_number() -> None:
    rows = [alert("dead_letter", f"a{n}", telling=3, told=1) for n in range(4)] + [alert("needs_review")]
    text = text_of(rows, left=9, per_hour=60)
    assert text.title == "onelane: 9 alerts together"
    assert text.body.splitlines()[0] == "8 dead letters, of 4 accounts"
