"""Commands for each kind of resource, against a real server: what people read, what scripts get, how they end."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator import cli
from orchestrator.cli.app import run
from orchestrator.client import Onelane
from orchestrator.client.connection import Api as ClientApi
from orchestrator.exit_codes import FAILED
from orchestrator.runtime import Runtime
from tenants.store.publishing import publications
from tests.orchestrator.cli.completion import complete
from tests.orchestrator.web.artifacts import PICTURE, save
from tests.orchestrator.web.commands import Command, made
from tests.orchestrator.web.conftest import Api, Bench

Refused = Callable[..., str]


@pytest.fixture
def refused(command: Command, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end with a status; gives back what it said on standard error, on one line."""

    def call(*arguments: str, status: int) -> str:
        capsys.readouterr()
        assert run(list(arguments)) == status
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return " ".join(re.sub(r"[│╭╰─╮╯]", " ", said).split())

    return call


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what comes on standard input."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_every_method_of_the_client_has_a_command() -> None:
    source = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    with Onelane("http://127.0.0.1:1", "key") as onelane:
        owners = {"": onelane} | {
            f"{name}.": each for name, each in vars(onelane).items() if isinstance(each, ClientApi)
        }
    unused = [
        f"{prefix}{name}"
        for prefix, owner in owners.items()
        for name in vars(type(owner))
        if not name.startswith("_") and f"onelane.{prefix}{name}" not in source
    ]
    assert set(unused) <= {"ready", "accounts.webhook_secret"}, "these are for programs alone"


# --- jobs ----------------------------------------------------------------------------------------------------------


def test_a_job_is_made_with_everything_that_it_can_have(command: Command) -> None:
    job = made(
        command,
        *("--run-at", "2100-01-01T09:00:00+01:00", "--expires-in", "60", "--deadline", "90", "--approval"),
        *("--unique-key", "u", "--tag", "a", "--tag", "b", "--idempotency-key", "once"),
    )
    assert (job["status"], job["run_at"][:19], job["unique_key"], job["tags"]) == (
        "scheduled",
        "2100-01-01T08:00:00",
        "u",
        ["a", "b"],
    )


def test_waiting_for_a_job_ends_with_how_it_ended(command: Command, api: Api, bench: Bench) -> None:
    job = made(command)
    assert json.loads(command("jobs", "wait", job["id"], "--timeout", "0", "--json", status=14))["status"] == "queued"
    bench.fail(bench.start(job))
    assert "publish_failed" in command("jobs", "wait", job["id"], status=10)
    assert "publish_failed" in command("jobs", "watch", job["id"], status=10)
    again = made(command)
    command("jobs", "cancel", again["id"])
    command("jobs", "wait", again["id"], status=12)
    for status, code in (("timed_out", 11), ("expired", 13), ("completed", 0)):
        set_status(bench, again["id"], status)
        command("jobs", "wait", again["id"], status=code)


def set_status(bench: Bench, job_id: str, status: str) -> None:
    from sqlalchemy import update

    from tenants.database.models import Job

    table = Job.__table__
    bench.write(lambda c: c.execute(update(table).where(table.c.id == job_id).values(status=status)))


def test_a_job_is_watched_until_it_waits_for_approval(command: Command, api: Api, bench: Bench) -> None:
    job = made(command, "--approval")
    bench.complete(bench.start(job), {})
    shown = command("jobs", "watch", job["id"], "--until", "awaiting_approval")
    assert "awaiting_approval" in shown
    command("jobs", "approve", job["id"])
    lines = threading.Timer(0.2, lambda: api.post(f"/v1/jobs/{job['id']}:cancel"))
    lines.start()
    states = command("jobs", "watch", job["id"], "--json", status=12).splitlines()
    lines.join()
    assert [json.loads(line)["status"] for line in states][-1] == "cancelled"


def test_events_are_printed_as_they_come(command: Command) -> None:
    job = made(command)
    command("jobs", "cancel", job["id"])
    events = [json.loads(line)["event"] for line in command("jobs", "events", job["id"], "--json").splitlines()]
    assert (events[0], events[-1]) == ("snapshot", "end")
    assert "status cancelled" in command("jobs", "events", job["id"])


def test_jobs_come_from_a_file_or_from_standard_input(
    command: Command, refused: Refused, typed: Callable[[str], None], tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"pipeline": "sample", "input": {"topic": "a"}, "tags": ["x"]}\n\n{"pipeline": "sample"}\n')
    assert "line 3: input.topic" in refused("jobs", "batch", "acme", str(file), status=1)
    assert command("jobs", "list", "--ids") == "", "all or nothing"
    typed('{"topic": "a"}\n{"topic": "b"}\n')
    first = command("jobs", "batch", "acme", "--pipeline", "sample", "--idempotency-key", "k", "--ids")
    typed('{"topic": "a"}\n{"topic": "b"}\n')
    assert command("jobs", "batch", "acme", "--pipeline", "sample", "--idempotency-key", "k", "--ids") == first
    assert len(first.splitlines()) == 2
    typed('{"topic": "one line\u2028of JSON"}\n')
    assert len(command("jobs", "batch", "acme", "--pipeline", "sample", "--ids").splitlines()) == 1
    typed("nonsense\n")
    assert "line 1 is no JSON" in refused("jobs", "batch", "acme", status=2)
    typed("[1]\n")
    assert "line 1 must be a JSON object" in refused("jobs", "batch", "acme", status=2)
    assert "no-such-file" in refused("jobs", "batch", "acme", "no-such-file", status=2)


def test_more_than_a_thousand_go_in_thousands(
    command: Command, typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.batches.CHUNK_JOBS", 2)
    typed('{"topic": "a"}\n' * 5)
    made_ids = command("jobs", "batch", "acme", "--pipeline", "sample", "--ids").splitlines()
    assert command("jobs", "list", "--ids").splitlines() == made_ids[::-1]


def test_a_batch_that_is_refused_half_way_says_what_was_accepted(
    command: Command, refused: Refused, typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.batches.CHUNK_JOBS", 2)
    command("accounts", "limits", "set", "acme", "--max-waiting", "3")
    typed('{"topic": "a"}\n' * 4)
    said = refused("jobs", "batch", "acme", "--pipeline", "sample", status=1)
    assert "2 jobs before line 3 were accepted" in said
    assert "queue_full" in said


def test_artifacts_are_listed_and_saved(command: Command, runtime: Runtime, bench: Bench, tmp_path: Path) -> None:
    job = made(command)
    save(runtime, bench.start(job), "../shot.png", "image/png", PICTURE)
    assert "image/png" in command("jobs", "artifacts", job["id"])
    command("jobs", "artifacts", job["id"], "--save", str(tmp_path / "files"))
    (file,) = (tmp_path / "files").iterdir()
    assert (file.name, file.read_bytes()) == ("01-.._shot.png", PICTURE), "a name is no path"


def test_lists_take_filters_and_say_what_is_wrong_with_them(command: Command, refused: Refused) -> None:
    job = made(command, "--tag", "red")
    after = ("--created-after", "2001-01-01T00:00:00Z", "--pipeline", "sample")
    assert command("jobs", "list", "--search", "red", *after, "--ids").strip() == job["id"]
    assert command("jobs", "list", "--created-before", "2001-01-01T00:00:00Z", "--ids") == ""
    assert "awaiting_approval" in refused("jobs", "list", "--status", "odd", status=2), "it says what would be right"
    assert "with offset" in refused("jobs", "list", "--created-after", "2001-01-01", status=2)
    assert "nope" in refused("jobs", "get", "nope", status=1)
    assert "--timeout goes with --wait" in refused("jobs", "retry", job["id"], "--timeout", "1", status=2)


# --- drafts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def draft(command: Command, bench: Bench) -> str:
    owned = bench.start(made(command))
    bench.write(lambda c: publications.create_draft(c, owned, title="Lanes", body="# Lanes", tags=["a"]))
    return command("drafts", "list", "--ids").strip()


def test_a_draft_is_edited(command: Command, refused: Refused, draft: str, tmp_path: Path) -> None:
    (tmp_path / "body.md").write_text("# Rye")
    text = f"@{tmp_path / 'body.md'}"
    shown = command("drafts", "edit", draft, "--title", "Rye", "--body", text, "--tag", "x", "--tag", "y")
    assert shown.splitlines()[:3] == ["Rye  (pending_publish, version 2)", "tags: x, y", "# Rye"]
    assert "stale_version" in refused("drafts", "edit", draft, "--title", "Old", "--version", "1", status=1)


def test_a_draft_is_edited_in_an_editor(
    command: Command, refused: Refused, draft: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no terminal" in refused("drafts", "edit", draft, status=2)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "more" >> "$2"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"{editor} --wait")
    assert "# Lanesmore" in command("drafts", "edit", draft)
    monkeypatch.setenv("EDITOR", "true")
    assert "nothing was changed" in command("drafts", "edit", draft)
    monkeypatch.setenv("EDITOR", "false")
    assert "status 1" in refused("drafts", "edit", draft, status=2)
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert "cannot be started" in refused("drafts", "edit", draft, status=2)


# --- accounts ------------------------------------------------------------------------------------------------------


def test_accounts_are_listed_steered_and_limited(command: Command, refused: Refused) -> None:
    made(command)
    for verb, status in (
        ("pause", "paused"),
        ("drain", "draining"),
        ("suspend", "suspended"),
        ("resume", "active"),
    ):
        assert command("accounts", verb, "a/b").startswith(f"a/b  {status}")
    assert command("accounts", "list", "--search", "a", "--status", "active", "--ids").strip() == "a/b"

    shown = command(
        *("accounts", "limits", "set", "a/b", "--weight", "2", "--max-waiting", "9", "--rate", "publish=10/3600"),
        *("--concurrency", "generate=2"),
    )
    assert "10 in 3600 s" in shown
    kept = json.loads(command("accounts", "limits", "set", "a/b", "--max-waiting", "none", "--json"))
    assert (kept["weight"], kept["max_waiting"]) == (2, None), "what is not named stays"
    assert kept["lanes"]["publish"]["rate"] == {"limit": 10, "per": 3600}
    command("accounts", "limits", "set", "a/b", "--ordering", "publish=strict", "--rate", "publish=none")
    kept = json.loads(command("accounts", "limits", "get", "a/b", "--json"))
    assert kept["lanes"]["publish"] == {"concurrency": 1, "rate": None, "ordering": "strict"}
    assert json.loads(command("accounts", "limits", "set", "a/b", "--default", "--json"))["weight"] == 1
    assert "neither a number nor none" in refused("accounts", "limits", "set", "a/b", "--max-waiting", "x", status=2)
    assert "10/3600" in refused("accounts", "limits", "set", "a/b", "--rate", "publish=x", status=2)
    assert "publish=…" in refused("accounts", "limits", "set", "a/b", "--concurrency", "2", status=2)
    assert "there is no lane 'nope'" in refused("accounts", "limits", "set", "a/b", "--concurrency", "nope=2", status=1)
    assert "at least one limit" in refused("accounts", "limits", "set", "a/b", status=2)


def test_use_is_reported_by_day(command: Command, refused: Refused) -> None:
    made(command)
    assert json.loads(command("accounts", "usage", "a/b", "--json"))["total"]["jobs"] == 1
    assert "total" in command("accounts", "usage", "a/b", "--first", "2026-01-01", "--last", "2026-02-01")
    assert "from" in refused("accounts", "usage", "a/b", "--first", "yesterday", status=1)


def test_target_and_session_are_set_and_cleared(
    command: Command, refused: Refused, typed: Callable[[str], None]
) -> None:
    options = ("--options", '{"blog": "a"}')
    assert "demo at" in command("accounts", "target", "set", "a/b", "demo", "http://127.0.0.1:9999", *options)
    assert "blog" in command("accounts", "target", "get", "a/b")
    assert "has no target" in command("accounts", "target", "clear", "a/b")
    assert "no target" in refused("accounts", "target", "get", "a/b", status=1)
    assert "unsafe_url" in refused("accounts", "target", "set", "a/b", "demo", "http://10.0.0.1", status=1)

    typed("hunter2\n")
    assert "ready" in command("accounts", "session", "set", "a/b", "--username", "alice", "--password-stdin")
    assert json.loads(command("accounts", "session", "get", "a/b", "--json"))["status"] == "ready"
    assert "no session now" in command("accounts", "session", "clear", "a/b")
    typed("")
    assert "--password-stdin" in refused("accounts", "session", "set", "a/b", "--username", "alice", status=2)
    assert "--username" in refused("accounts", "session", "set", "a/b", status=2)
    state = ("--storage-state", '{"cookies": []}', "--expires-at", "2001-01-01T00:00:00Z")
    assert "expired" in command("accounts", "session", "set", "a/b", *state)


def test_keys_are_made_listed_and_ended(command: Command, refused: Refused) -> None:
    key = json.loads(command("keys", "create", "a/b", "--name", "shop", "--json"))
    command("jobs", "list", "--key", key["key"])
    assert "shop" in command("keys", "list", "a/b")
    assert "revoked" in command("keys", "delete", "a/b", key["id"])
    assert "unauthenticated" in refused("jobs", "list", "--key", key["key"], status=1)
    command("keys", "create", "a/b")
    command("keys", "delete", "a/b", "--all")
    assert command("keys", "list", "a/b", "--ids") == ""
    assert "not both" in refused("keys", "delete", "a/b", status=2)


# --- what an operator does -----------------------------------------------------------------------------------------


def test_queues_and_lanes_are_paused_limited_and_reaped(command: Command, refused: Refused) -> None:
    job = made(command)
    assert "generate_a/b" in command("queues", "get", "generate", "a/b")
    heavy = json.loads(command("lanes", "heaviest", "generate", "--by", "backlog", "--json"))["items"]
    assert [(each["waiting"], each["share"]) for each in heavy] == [(1, 1.0)]
    assert json.loads(command("lanes", "heaviest", "publish", "--json"))["items"] == []
    assert "yes" in command("queues", "pause", "generate", "a/b")
    assert "queue_paused" in command("jobs", "why", job["id"])
    assert "no" in command("queues", "resume", "generate", "a/b")
    assert "yes" in command("lanes", "pause", "generate")
    assert json.loads(command("lanes", "resume", "generate", "--json"))["paused"] is False
    assert "3 at once" in command("lanes", "limit", "generate", "3")
    assert "no limit" in command("lanes", "limit", "generate", "none")
    assert "neither" in refused("lanes", "limit", "generate", "x", status=2)
    assert "there is no lane 'nope'" in refused("lanes", "pause", "nope", status=1)
    assert "generate" in command("lanes", "list", "--ids").split()
    command("jobs", "cancel", job["id"])
    assert "1 would be deleted" in command("reap", "--idle-longer-than", "0", "--dry-run")
    assert "1 was deleted" in command("reap", "--idle-longer-than", "0")
    assert "no live tenant queue" in refused("queues", "get", "generate", "a/b", status=1)


def test_a_check_of_the_queues_reports_fixes_and_ends_with_a_status(
    command: Command, runtime: Runtime, redis_url: str
) -> None:
    made(command)
    assert command("queues", "check").startswith("0 violations")
    with redis.Redis.from_url(redis_url) as client:
        assert client.zrem(runtime.broker.keys.root("generate") + ":ready", "@a/b") == 1
    found = command("queues", "check", status=FAILED)
    assert "stands_nowhere" in found
    assert "a/b" in found
    assert json.loads(command("queues", "check", "--json"))["violations"] == 0
    assert runtime.broker.queues_admin.totals("generate").ready == 1


def test_dead_letters_are_shown_replayed_and_discarded_by_filter(command: Command, api: Api, bench: Bench) -> None:
    for _ in range(2):
        bench.fail(bench.start(made(command)))
    newest, _ = command("dead-letters", "list", "--error-code", "publish_failed", "--ids").split()
    shown = command("dead-letters", "get", newest)
    assert "it did not work" in shown
    assert "Traceback: …" in shown
    assert "2 match, and would be replayed" in command("dead-letters", "replay-all", "--lane", "generate", "--dry-run")
    assert "1 replayed" not in command("dead-letters", "discard-all", "--lane", "publish")
    command("dead-letters", "discard", newest)
    assert "1 replayed, 0 skipped, 0 left" in command("dead-letters", "replay-all", "--per-second", "5")
    assert command("dead-letters", "list", "--ids") == ""
    letter = json.loads(command("dead-letters", "get", newest, "--json"))
    assert letter["resolution"] == "discarded"
    assert "discarded" in command("dead-letters", "get", newest)


def test_workers_pipelines_and_the_audit_are_listed(command: Command, refused: Refused, bench: Bench) -> None:
    bench.start(made(command))
    assert "write of a/b" in command("workers", "list")
    assert "write, post" in command("pipelines", "list")
    assert '"topic"' in command("pipelines", "get", "sample")
    assert "there are blog, sample" in refused("pipelines", "get", "nope", status=2)
    command("accounts", "pause", "a/b")
    command("accounts", "limits", "set", "a/b", "--weight", "3")
    shown = command("audit", "--actor", "admin:admin")
    assert "active → paused" in shown
    assert "weight 1 → 3" in shown
    assert len(json.loads(command("audit", "--limit", "1", "--json"))["items"]) == 1


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("accounts get a", ["a/b"]),
        ("accounts get x", []),
        ("lanes pause g", ["generate"]),
        ("queues list --lane p", ["publish"]),
        ("jobs create a/b sam", ["sample"]),
    ],
)
def test_the_shell_completes_what_the_service_knows(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    offered: list[str],
) -> None:
    made(command)
    assert complete(f"onelane {words}", monkeypatch, capsys) == offered


def test_the_shell_completes_ids(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made(command)["id"]
    assert complete(f"onelane jobs cancel {job[:9]}", monkeypatch, capsys) == [job]


# --- lists that stay -----------------------------------------------------------------------------------------------


def test_a_watched_list_is_reported_when_it_changes(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(3))

    def between(seconds: float) -> None:
        look = next(looks, None)
        if look is None:
            raise KeyboardInterrupt
        if look == 1:
            run(["jobs", "create", "acme", "sample", "--input", '{"topic": "x"}', "--ids"])

    monkeypatch.setattr("orchestrator.cli.live.time.sleep", between)
    assert run(["jobs", "list", "--watch", "--json"]) == 130
    states = [json.loads(line)["items"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [len(items) for items in states] == [0, 1], "a state that is the same is not reported again"


def test_ids_of_what_has_none_are_nothing(command: Command) -> None:
    assert command("reconcile", "--ids") == ""


def test_nothing_of_markup_or_of_a_terminal_is_in_json(command: Command) -> None:
    job: dict[str, Any] = made(command, "--tag", "[bold]x[/]")
    assert job["tags"] == ["[bold]x[/]"]
    assert "\x1b" not in command("jobs", "list")
