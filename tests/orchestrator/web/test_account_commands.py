"""Commands that take all of an account out, or away, and that replace keys; against a real server."""

from __future__ import annotations

import errno
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.app import run
from orchestrator.client import ExportCut, NotReachable, Onelane
from orchestrator.client.connection import Connection
from orchestrator.local.doctor import examine
from orchestrator.local.findings import Finding
from orchestrator.loops.eraser import Eraser
from orchestrator.runtime import Runtime
from tenants.secrets.sealing import Sealer, new_key
from tenants.secrets.sessions import Sessions
from tests.orchestrator.web.commands import Command
from tests.orchestrator.web.conftest import SECRET_KEY, Api


def said(command: Command, *arguments: str) -> Any:
    return json.loads(command(*arguments, "--json"))


def test_an_account_is_exported_line_by_line(
    command: Command, new_job: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job("a%2Fb%3Ac")
    capsys.readouterr()
    assert run(["accounts", "export", "a/b:c"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0]["type"], lines[0]["account"], lines[-1]["type"]) == ("header", "a/b:c", "end")
    assert [line["data"]["id"] for line in lines if line["type"] == "job"] == [job["id"]]

    whole = Connection.lines
    monkeypatch.setattr(Connection, "lines", lambda self, path: list(whole(self, path))[:-1])
    assert run(["accounts", "export", "a/b:c"]) == 1
    assert "was cut" in capsys.readouterr().err
    assert run(["accounts", "export", "nobody"]) == 1


def test_the_clients_export_says_when_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = {"type": "error", "detail": "the database cannot be reached"}
    monkeypatch.setattr(Connection, "lines", lambda self, path: iter([{"type": "header"}, cut]))
    with Onelane("http://127.0.0.1:1", "key") as onelane, pytest.raises(ExportCut, match="cannot be reached"):
        list(onelane.accounts.export("acme"))


def test_an_export_that_breaks_off_is_cut(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not 3, "no service answers": half of it stands in a file by then."""

    def broken(self: Connection, path: str) -> Iterator[dict[str, Any]]:
        yield {"type": "header"}
        raise NotReachable("the connection was reset")

    monkeypatch.setattr(Connection, "lines", broken)
    assert run(["accounts", "export", "acme"]) == 1
    assert "was cut: the connection was reset" in capsys.readouterr().err


def test_an_export_whose_reader_has_gone_is_141(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class ClosedOutput(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "nobody reads")

    monkeypatch.setattr(Connection, "lines", lambda self, path: iter([{"type": "header"}, {"type": "end"}]))
    monkeypatch.setattr("orchestrator.terminal.close_quietly", lambda: None)
    monkeypatch.setattr("sys.stdout", ClosedOutput())
    assert run(["accounts", "export", "acme"]) == 141


def test_an_account_is_erased_and_waited_for(command: Command, runtime: Runtime, new_job: Any) -> None:
    eraser = Eraser(runtime)
    eraser.settle_seconds = 0.0
    new_job("acme")
    over = threading.Event()

    def erase() -> None:
        while not over.is_set():
            eraser.run_once()
            over.wait(0.02)

    loop = threading.Thread(target=erase)
    loop.start()
    try:
        done = said(command, "accounts", "erase", "acme", "--wait", "--yes")
    finally:
        over.set()
        loop.join()

    assert (done["status"], done["remaining"], done["removed"]["jobs"]) == ("completed", 0, 1)
    listed = said(command, "accounts", "erasures", "--account", "acme")["items"]
    assert [each["id"] for each in listed] == [done["id"]]
    assert said(command, "accounts", "erasures", "--id", done["id"]) == done
    assert run(["accounts", "erase", "acme", "--yes"]) == 1


def test_keys_are_replaced(command: Command, api: Api) -> None:
    old = said(command, "keys", "create", "acme")
    new = said(command, "keys", "rotate", "acme", old["id"], "--overlap", "0")
    assert api.with_key(old["key"]).get("/v1/jobs").status_code == 401
    assert api.with_key(new["key"]).get("/v1/jobs").status_code == 200
    admin = said(command, "admin-keys", "create", "--name", "ops")
    rotated = said(command, "admin-keys", "rotate", admin["id"])
    assert {each["name"] for each in said(command, "admin-keys", "list")["items"]} == {"ops"}
    assert said(command, "admin-keys", "delete", rotated["id"]) == {"deleted": rotated["id"]}
    assert api.with_key(rotated["key"]).get("/v1/accounts").status_code == 401


def test_secrets_are_sealed_anew_and_doctor_reports_what_is_left(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.sessions.put("acme", storage_state={"cookies": []}, credentials={"username": "u", "password": "hunter2"})
    runtime.webhook_secrets.rotate("acme")
    monkeypatch.setenv("ONELANE_DATABASE_URL", runtime.settings.database_url)
    monkeypatch.setenv("ONELANE_DATA_DIR", str(tmp_path))
    new = new_key()

    def finding() -> Finding:
        return next(each for each in examine() if each.part == "secrets")

    monkeypatch.setenv("ONELANE_SECRET_KEY", SECRET_KEY)
    assert finding().status == "ok"
    monkeypatch.setenv("ONELANE_SECRET_KEY", f"{new},{SECRET_KEY}")
    assert (finding().status, "3 sealed value(s)" in finding().message) == ("note", True)
    assert "secrets rotate" in finding().fix
    monkeypatch.setenv("ONELANE_SECRET_KEY", new)
    assert (finding().status, "not set" in finding().message) == ("wrong", True)
    capsys.readouterr()
    assert run(["secrets", "rotate", "--json"]) == 1, "without the old key nothing can be opened"
    assert len(json.loads(capsys.readouterr().out)["unreadable"]) == 3

    monkeypatch.setenv("ONELANE_SECRET_KEY", f"{new},{SECRET_KEY}")
    assert run(["secrets", "rotate", "--json"]) == 0
    reported = capsys.readouterr()
    assert sum(json.loads(reported.out)["resealed"].values()) == 3
    assert "no longer needed" in finding().message
    monkeypatch.setenv("ONELANE_SECRET_KEY", new)
    assert finding().status == "ok"
    assert run(["secrets", "rotate"]) == 0
    reported_to_people = capsys.readouterr()
    for text in (reported.out, reported.err, reported_to_people.out, reported_to_people.err):
        assert new not in text
        assert SECRET_KEY not in text
        assert "hunter2" not in text
    opened = Sessions(runtime.database, Sealer([new])).load("acme")
    assert opened is not None
    assert opened.credentials == {"username": "u", "password": "hunter2"}
