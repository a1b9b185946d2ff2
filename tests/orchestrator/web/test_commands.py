"""The commands that speak to a service, against a real server: what people read, what programs get, exit codes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx2
import pytest

from orchestrator.cli.app import run
from orchestrator.client import ApiError, NotReachable, Onelane
from orchestrator.worker.step_journal import StepJournal
from tenants.store.jobs import webhook_deliveries
from tenants.store.publishing import publications
from tests.orchestrator.web.commands import Command, made
from tests.orchestrator.web.conftest import ADMIN_KEY, Api, Bench


def test_a_job_is_made_listed_explained_and_cancelled(command: Command) -> None:
    job = made(command, "--priority", "0", "--tag", "x")
    assert (job["account"], job["priority"], job["tags"]) == ("a/b", 0, ["x"])

    assert job["id"] in command("jobs", "list", "--account", "a/b"), "an id stays in one piece, to be copied"
    assert "no_worker" in command("jobs", "why", job["id"])
    assert {each["code"] for each in json.loads(command("jobs", "why", job["id"], "--json"))["items"]} >= {"no_worker"}
    assert "position in its queue: 0" in command("jobs", "get", job["id"])
    assert "cancelled" in command("jobs", "cancel", job["id"])
    assert json.loads(command("jobs", "list", "--status", "queued", "--json")) == {"items": []}


def test_what_is_refused_is_1_and_says_why(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    job = made(command)
    command("jobs", "cancel", job["id"])
    command("jobs", "cancel", job["id"], status=1)
    command("jobs", "approve", job["id"], status=1)
    command("jobs", "create", "acme", "nonsense", status=1)
    command("jobs", "get", "nope", status=1)
    assert run(["jobs", "create", "acme", "sample", "--input", '{"words": 7}']) == 1
    assert "input.topic" in capsys.readouterr().err


def test_a_cancelled_job_goes_on(command: Command) -> None:
    job = made(command)
    command("jobs", "cancel", job["id"])
    assert json.loads(command("jobs", "retry", job["id"], "--json"))["status"] == "queued"


def test_a_jobs_log_is_printed_also_after_its_end(command: Command, bench: Bench) -> None:
    job = made(command)
    owned = bench.start(job)
    journal = StepJournal(owned, bench.runtime.database)
    journal.add_line("warning", "[red]a tag is text[/]")
    journal.add_line("info", "line two")
    journal.flush()
    shown = f"warning {owned.name}: [red]a tag is text[/]\ninfo    {owned.name}: line two\n"
    assert command("jobs", "logs", job["id"]) == shown
    bench.fail(owned)
    assert command("jobs", "logs", job["id"]) == shown
    assert command("jobs", "logs", job["id"], "--follow") == shown
    last = command("jobs", "logs", job["id"], "--json").splitlines()[-1]
    assert json.loads(last) == {"step": owned.name, "level": "info", "message": "line two"}
    events = command("jobs", "events", job["id"], "--from-start").splitlines()
    assert [line.split()[0] for line in events if "log" in line] == ["log", "log"]
    assert events[-1].startswith("end")
    command("jobs", "logs", "nope", status=1)


def test_nobody_there_is_3(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_URL", "http://127.0.0.1:1")
    command("jobs", "list", status=3)


def test_drafts_are_read_and_an_unknown_outcome_is_settled(command: Command, api: Api, bench: Bench) -> None:
    job = made(command)
    owned = bench.start(job)
    bench.write(lambda c: publications.create_draft(c, owned, title="[bold]Lanes[/]", body="# Lanes", tags=[]))
    bench.complete(owned, {})
    owned = bench.start(api.get(f"/v1/jobs/{job['id']}").json())
    bench.write(lambda c: publications.open_entry(c, owned, publisher="demo", base_url="http://blog"))
    bench.write(lambda c: publications.started(c, owned, 1))
    bench.write(lambda c: publications.unknown(c, owned, "the browser died"))
    bench.fail(owned, "outcome_unknown")

    listed = command("drafts", "list", "--status", "needs_review")
    draft = json.loads(command("drafts", "list", "--json"))["items"][0]
    publication = draft["publication"]["id"]
    assert publication in listed
    assert "[bold]Lanes[/]" in listed, "a title is text, never markup"
    assert "# Lanes" in command("drafts", "get", draft["id"])
    assert "publish" in command("dead-letters", "list")

    command("publications", "confirm", publication, "javascript:alert(1)", status=1)
    assert "confirmed" in command("publications", "confirm", publication, "https://blog.example/lanes")
    command("publications", "retry", publication, status=1)


def test_a_job_is_watched_to_its_end(address: tuple[str, int], command: Command, bench: Bench) -> None:
    job = made(command)
    seen: list[tuple[str, int]] = []
    with Onelane("http://{}:{}".format(*address), ADMIN_KEY) as onelane:
        for state in onelane.jobs.watch(job["id"]):
            seen.append((state["status"], state["progress"]))
            waits = [step for step in state["steps"] if step["status"] == "queued"]
            if waits and state["status"] == "queued":
                bench.complete(bench.start(state), {"url": "http://127.0.0.1/1"})
    assert seen[0] == ("queued", 0)
    assert seen[-1] == ("completed", 100)
    assert ("queued", 50) in seen, "it waits for its second step"


def test_watching_takes_up_a_stream_that_breaks_off(
    address: tuple[str, int], command: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_of(chunks: Callable[[], Iterator[str]]) -> Iterator[str]:
        yield next(chunks())
        raise httpx2.ReadError("cut")

    job = made(command)
    streams = 0
    with Onelane("http://{}:{}".format(*address), ADMIN_KEY) as onelane:
        stream = onelane._http.stream

        @contextlib.contextmanager
        def breaks_off(*arguments: Any, **more: Any) -> Iterator[Any]:
            nonlocal streams
            streams += 1
            with stream(*arguments, **more) as answer:
                if streams == 1:
                    monkeypatch.setattr(answer, "iter_text", partial(first_of, answer.iter_text))
                yield answer

        monkeypatch.setattr(onelane._http, "stream", breaks_off)
        states = onelane.jobs.watch(job["id"])
        assert next(states)["status"] == "queued"
        command("jobs", "cancel", job["id"])
        assert [each["status"] for each in states][-1] == "cancelled"
    assert streams == 2


def test_watching_what_is_not_there_is_refused(address: tuple[str, int]) -> None:
    with Onelane("http://{}:{}".format(*address), ADMIN_KEY) as onelane, pytest.raises(ApiError, match="nope"):
        next(onelane.jobs.watch("nope"))
    with Onelane("http://127.0.0.1:1", ADMIN_KEY) as onelane, pytest.raises(NotReachable):
        next(onelane.jobs.watch("nope"))


def test_an_account_is_shown(command: Command) -> None:
    made(command)
    shown = command("accounts", "get", "a/b")
    assert "none; jobs that publish need one" in shown
    assert "generate_a/b" in shown
    assert json.loads(command("accounts", "get", "a/b", "--json"))["account"] == "a/b"


def test_a_webhook_s_tries_are_shown_and_its_secret_is_made(
    address: tuple[str, int], command: Command, bench: Bench
) -> None:
    job = made(command, "--callback-url", "http://127.0.0.1:9999/hook")
    assert json.loads(command("jobs", "deliveries", job["id"], "--json")) == {"items": []}
    command("jobs", "cancel", job["id"])
    (delivery,) = json.loads(command("jobs", "deliveries", job["id"], "--json"))["items"]
    assert (delivery["job_status"], delivery["status"]) == ("cancelled", "queued")
    assert delivery["id"] in command("jobs", "deliveries", job["id"]), "also before the first try"
    with Onelane("http://{}:{}".format(*address), ADMIN_KEY) as onelane:
        owned = bench.start(onelane.jobs.get(delivery["id"]))
    bench.write(lambda c: webhook_deliveries.note_answer(c, owned.step_id, owned.run_token, 503))
    bench.fail(owned, "callback_failed")
    shown = command("jobs", "deliveries", job["id"])
    assert "503" in shown
    assert command("accounts", "webhook-secret", "a/b").startswith("whsec_")
