"""The command line before any service is there: names, exit codes, shadowed packages, keys."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from onelane.collisions import hidden
from orchestrator.cli.app import app, run
from orchestrator.cli.output import print_table
from orchestrator.local import examinations, ports
from orchestrator.local.doctor import examine, print_findings
from orchestrator.local.findings import Finding
from tests import ROOT
from tests.support.running import environment
from tests.support.servers import free_port


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in (
        "up",
        "serve",
        "work",
        "migrate",
        "doctor",
        "demo",
        "jobs",
        "accounts",
        "queues",
        "dead-letters",
        "keys",
    ):
        assert f" {name} " in text
    assert "3 no service answers" in " ".join(text.split())


@pytest.mark.parametrize(
    "command", ["jobs create", "jobs list", "jobs cancel", "schedules preview", "keys create", "reconcile"]
)
def test_commands_that_speak_to_a_service_end_with_the_same_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command.split(), "--help"]) == 0
    options = [word for word in capsys.readouterr().out.split() if word.startswith("--")]
    assert options[-5:] == ["--url", "--key", "--data-dir", "--json", "--help"]


@pytest.mark.parametrize("arguments", [["nonsense"], ["jobs", "list", "--nope"], ["jobs", "create", "a"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("value", ['{"x": NaN}', '{"x": "\\ud800"}', '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"])
def test_json_that_no_request_can_carry_is_2(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input").write_text(value)
    reported = ["--key", "k", "--url", "http://127.0.0.1:9"]
    assert run(["jobs", "create", "acme", "blog", "--input", "@input", *reported]) == 2
    assert run(["jobs", "batch", "acme", "input", *reported]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_argument_that_is_no_text_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A byte that is no UTF-8 reaches Python as half a character."""
    assert run(["accounts", "get", "\udcff", "--key", "k", "--url", "http://127.0.0.1:9"]) == 2
    assert "b'\\xff' is no UTF-8" in capsys.readouterr().err


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"onelane {project['version']}\n"


@pytest.mark.parametrize("name", ["ONELANE_THREADS", "ONELANE_REDIS_URL", "ONELANE_URL"])
def test_a_client_command_checks_settings_that_it_does_not_use(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "x")
    assert run(["jobs", "list", "--key", "k"]) == 4
    assert name in capsys.readouterr().err


def test_settings_of_a_client_command_may_stand_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("onelane.toml").write_text('url = "http://127.0.0.1:9"\napi_key = "k"\n')
    assert run(["jobs", "list"]) == 3
    assert "http://127.0.0.1:9" in capsys.readouterr().err


def test_wrong_settings_are_4_and_all_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONELANE_PORT", "x")
    monkeypatch.setenv("ONELANE_TREADS", "1")
    assert run(["jobs", "list"]) == 4
    text = capsys.readouterr().err
    assert "ONELANE_PORT" in text
    assert "did you mean ONELANE_THREADS?" in text


@pytest.mark.parametrize("command", ["serve", "work"])
def test_serve_and_work_refuse_to_start_without_keys(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command]) == 4
    assert "ONELANE_SECRET_KEY" in capsys.readouterr().err


def test_a_new_key_is_long_and_new(capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for _ in range(2):
        assert run(["doctor", "--new-key", "--json"]) == 0
        made.append(json.loads(capsys.readouterr().out)["key"])
    assert made[0] != made[1]
    assert min(map(len, made)) >= 40


def test_migrate_reports_what_it_applied(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["applied"]
    assert run(["migrate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["applied"] == []


def test_our_packages_are_ours_here() -> None:
    assert hidden() == []


@pytest.mark.processes
def test_a_strangers_module_of_our_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "actors.py").write_text("raise RuntimeError('a stranger')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "jobs", "list"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 4
    assert str(tmp_path / "actors.py") in ended.stderr
    assert str(ROOT / "actors") in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.processes
def test_a_module_in_the_working_directory_hides_nothing_from_the_program(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a stranger')\n")
    (tmp_path / "actors.py").write_text("raise RuntimeError('a stranger')\n")
    program = Path(sys.executable).with_name("onelane")
    if not program.exists():
        pytest.skip("the project is not installed beside this interpreter, so there is no onelane program")
    ended = subprocess.run(
        [program, "doctor", "--new-key"], cwd=tmp_path, env=environment(), capture_output=True, timeout=150, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_doctor_says_what_is_wrong_and_how_to_fix_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONELANE_REDIS_URL", "redis://127.0.0.1:9")
    monkeypatch.setenv("ONELANE_DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:9/none?connect_timeout=2")
    monkeypatch.setenv("ONELANE_CHROMIUM", str(tmp_path / "no-browser"))
    monkeypatch.setenv("ONELANE_PIPELINES", "no.such.module")
    findings = {each.part: each for each in examine() if each.status == "wrong"}
    assert set(findings) == {"database", "redis", "pipelines", "browser"}
    assert all(each.fix for each in findings.values())
    assert "hunter2" not in repr(findings)


def test_doctor_says_where_a_data_directory_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONELANE_DATA_DIR", str(tmp_path / "file" / "data"))
    (found,) = [each for each in examine() if each.part == "files"]
    assert found.status == "wrong"
    assert f"cannot be made in {tmp_path}/file: it is not a directory" in found.message
    assert "ONELANE_DATA_DIR" in found.fix


def test_doctor_tries_whether_the_file_system_takes_a_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode of /proc lets root write; the file system does not."""
    monkeypatch.setenv("ONELANE_DATA_DIR", "/proc/onelane")
    (found,) = [each for each in examine() if each.part == "files"]
    assert found.status == "wrong"
    assert "/proc/onelane does not exist, and cannot be made in /proc: " in found.message


def test_up_names_the_setting_of_a_data_directory_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, reason in ((file, "it is not a directory"), (file / "data", "cannot be made: Not a directory")):
        monkeypatch.setenv("ONELANE_DATA_DIR", str(path))
        assert run(["up"]) == 1
        message = " ".join(capsys.readouterr().err.split())
        assert reason in message
        assert "ONELANE_DATA_DIR" in message


def test_doctors_json_keeps_the_name_that_a_field_had(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("redis", "wrong", "away", "start it")], json=True)
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding == {"part": "redis", "status": "wrong", "message": "away", "fix": "start it", "mend": "start it"}


def test_doctor_says_what_failed_while_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback helps nobody who asks what is wrong, and its message may hold a secret."""

    def broken(_: object) -> list[object]:
        raise KeyError("hunter2")

    monkeypatch.setattr(examinations, "pipelines", broken)
    (found,) = [each for each in examine() if "examination failed" in each.message]
    assert found.status == "wrong"
    assert "KeyError" in found.message
    assert "hunter2" not in found.message


def test_doctor_shows_no_password_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_OFFLINE_MODEL_URL", "http://user:hunter2@model:1")
    found = [each for each in examine() if each.part == "model"]
    assert "model:1" in found[0].message
    assert "hunter2" not in str(found)


def test_doctor_finds_a_driver_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", "/bin/false")
    (driver,) = [each for each in examine() if each.part == "driver"]
    assert driver.status == "wrong"
    assert "libatomic1" in str(driver.fix)


def test_doctor_says_that_up_needs_a_redis_without_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (found,) = [each for each in examine() if each.part == "redis"]
    assert (found.status, "`up` starts an embedded Valkey" in found.message) == ("note", True)
    monkeypatch.setattr(examinations, "is_installed", lambda extra: extra != "embedded")
    (found,) = [each for each in examine() if each.part == "redis"]
    assert "onelane[embedded]" in found.message
    assert "starts an embedded" not in found.message
    assert "ONELANE_REDIS_URL" in found.fix


def test_doctor_finds_keys_that_others_can_read(tmp_path: Path) -> None:
    folder = tmp_path / ".onelane"
    folder.mkdir()
    (folder / "secret.key").write_text("k" * 40)
    (folder / "secret.key").chmod(0o644)
    (wrong,) = [each for each in examine() if each.part == "files" and each.status == "wrong"]
    assert "secret.key" in wrong.message
    assert wrong.fix == "chmod 600 them"


def test_doctor_reports_where_alerts_go_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = [each for each in examine() if each.part == "alerts"]
    assert (finding.status, "ONELANE_ALERT_URLS" in finding.message) == ("note", True)
    monkeypatch.setenv("ONELANE_ALERT_URLS", "json://hunter2:hunter2@127.0.0.1:9/hunter2")
    (finding,) = [each for each in examine() if each.part == "alerts"]
    assert finding.status == "ok"
    assert "json" in finding.message
    assert "hunter2" not in repr(finding)


def test_doctor_reports_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_PORT", "0")
    (finding,) = examine()
    assert (finding.part, finding.status) == ("settings", "wrong")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("variable", "value", "reported"),
    [
        ("ONELANE_DATABASE_URL", "postgresql://x@127.0.0.1:9/x", "port 9"),
        ("ONELANE_REDIS_URL", "redis://127.0.0.1:9", "127.0.0.1:9"),
        ("ONELANE_DATA_DIR", "/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_up_says_in_words_what_it_cannot_reach(
    variable: str, value: str, reported: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert run(["up"]) == 1
    said = capsys.readouterr().err
    assert reported in said
    assert "Traceback" not in said


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command with what it needs to be called."""
    inner = getattr(command, "commands", None)
    if inner is not None:
        for name in inner:
            yield from leaves(inner[name], (*path, name))
        return
    needed: list[str] = []
    for each in command.params:
        if each.required:
            needed += [*([each.opts[0]] if each.param_type_name == "option" else []), "1"]
    yield (*path, *needed, *MORE.get(path, ()))


#: What these commands need although no single argument is required.
MORE = {
    ("schedules", "change"): ("--name", "x"),
    ("accounts", "limits", "set"): ("--default",),
    ("accounts", "session", "set"): ("--username", "x", "--password-stdin"),
    ("keys", "create"): ("--admin",),
    ("keys", "delete"): ("--all",),
}


def test_wrong_settings_are_4_from_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONELANE_THREADS", "many")
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"jobs": []}'))
    found = list(leaves(typer.main.get_command(app)))
    assert len(found) > 60
    for arguments in found:
        assert run(list(arguments)) == 4, arguments
        said = capsys.readouterr()
        assert "ONELANE_THREADS" in said.err + said.out, arguments


def test_a_module_of_pipelines_that_is_missing_is_4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "ONELANE_PIPELINES": "no.such.module",
        "ONELANE_REDIS_URL": "redis://127.0.0.1:9",
        "ONELANE_SECRET_KEY": "k" * 40,
        "ONELANE_ADMIN_KEY": "k" * 40,
        "ONELANE_DATA_DIR": str(tmp_path),
        "ONELANE_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", "serve"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (ended.returncode, "no.such.module" in ended.stderr) == (4, True), ended.stderr


def test_a_port_that_is_taken_is_said_with_how_to_choose_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in {
        "ONELANE_REDIS_URL": "redis://127.0.0.1:9",
        "ONELANE_SECRET_KEY": "k" * 40,
        "ONELANE_ADMIN_KEY": "k" * 40,
        "ONELANE_DATA_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ports, "LINGER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert run(["serve", "--port", port]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"port {port} on 127.0.0.1" in said
    assert "--port or ONELANE_PORT" in said


def test_a_table_for_a_program_breaks_no_word_and_no_url(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://blog.example.com/" + "a-very-long-title-of-a-post/" * 20
    message = "the session is over: " + "word " * 60
    print_table([{"id": "1", "base_url": url, "error": {"code": message}}], ("id", "base_url", "error"), empty="")
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "base", "url", "error"]
    assert url in row
    assert message.rstrip() in row
    assert all(line == line.rstrip() for line in (head, row))
