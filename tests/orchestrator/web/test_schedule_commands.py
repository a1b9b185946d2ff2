"""`onelane schedules …` against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import run
from tests.orchestrator.web.commands import Command

INPUT = ("--input", '{"topic": "lanes"}')


def reported(command: Command, *arguments: str) -> Any:
    return json.loads(command("schedules", *arguments, "--json"))


def test_a_schedule_is_made_shown_changed_run_and_deleted(command: Command) -> None:
    made = reported(command, "create", "a/b", "[b]daily[/b]", "sample", "--cron", "0 9 * * *", *INPUT)
    assert (made["account"], made["cron"], made["enabled"]) == ("a/b", "0 9 * * *", True)
    listed = command("schedules", "list", "--account", "a/b")
    assert made["id"] in listed
    assert "0 9 * * *" in listed
    shown = command("schedules", "get", made["id"])
    assert "[b]daily[/b]" in shown, "a name is text, never markup"
    assert "next: 2" in shown

    assert "next: never" in command("schedules", "pause", made["id"])
    assert "0 9 * * * (Asia/Seoul)" in command("schedules", "change", made["id"], "--timezone", "Asia/Seoul")
    assert "next: 2" in command("schedules", "resume", made["id"])
    job = reported(command, "run", made["id"], "--idempotency-key", "k")
    assert reported(command, "run", made["id"], "--idempotency-key", "k")["id"] == job["id"]
    (fire,) = reported(command, "fires", made["id"])["items"]
    assert (fire["outcome"], fire["job_id"]) == ("fired", job["id"])
    assert job["id"] in command("schedules", "fires", made["id"])

    assert made["id"] in command("schedules", "delete", made["id"])
    command("schedules", "get", made["id"], status=1)
    assert reported(command, "list") == {"items": []}


def test_every_kind_of_cadence_can_be_given(command: Command, tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text('[{"topic": "a"}, {"topic": "b"}]')
    spread = reported(command, "create", "acme", "s", "sample", *INPUT, "--spread", "3@09:00-21:00", "--min-gap", "600")
    assert spread["spread"] == {"per_day": 3, "window": ["09:00", "21:00"], "min_gap": 600.0}
    times = ("--at", "2199-01-01T00:00:00Z", "--at", "2199-01-02T00:00:00Z")
    at = reported(command, "create", "acme", "a", "sample", "--inputs", "@inputs.json", *times, "--overlap", "skip")
    assert (at["inputs_left"], len(at["at"]), at["overlap"]) == (2, 2, "skip")
    assert "inputs left: 2" in command("schedules", "get", at["id"])
    off = reported(
        command, "create", "acme", "e", "sample", *INPUT, "--every", "60", "--disabled", "--catch-up", "none"
    )
    assert (off["every"], off["next_fire_at"], off["catch_up"]) == (60.0, None, "none")
    listed = command("schedules", "list")
    for words in ("3 a day, 09:00-21:00", "2 given times", "every 60 s"):
        assert words in listed


def test_a_preview_reports_times(command: Command) -> None:
    times = reported(command, "preview", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--count", "3")["items"]
    assert len(times) == 3
    lines = command("schedules", "preview", "--every", "60", "--count", "2", "--account", "acme", "--name", "x")
    assert len(lines.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--cron", "61 * * * *"), 1, "cron"),
        (("--every", "60", "--timezone", "Mars"), 1, "timezone"),
        ((), 1, "give one of"),
        (("--spread", "many"), 2, "--spread"),
        (("--every", "60", "--min-gap", "5"), 2, "--min-gap"),
    ],
)
def test_what_is_wrong_is_said(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, words: str
) -> None:
    assert run(["schedules", "create", "acme", "x", "sample", *INPUT, *arguments]) == status
    assert words in capsys.readouterr().err
    assert run(["schedules", "change", "nope"]) == 2
