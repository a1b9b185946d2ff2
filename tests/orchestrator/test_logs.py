"""Log lines: their form, and that no secret leaves in one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import logs
from orchestrator.settings import Settings

SECRET = "correct-horse-battery-staple-1"


@pytest.fixture(autouse=True)
def restored_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def configure(tmp_path: Path, log_format: str) -> None:
    logs.configure(Settings.load(data_dir=tmp_path, secret_key=f"{SECRET},{'o' * 30}", log_format=log_format))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_leaves(tmp_path: Path, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(tmp_path, log_format)
    try:
        raise ValueError(f"sealed with {SECRET}")
    except ValueError:
        logging.getLogger("onelane.test").exception("key %s and %s", SECRET, "o" * 30)
    written = capsys.readouterr().err
    assert "[secret]" in written
    assert SECRET not in written
    assert "o" * 30 not in written


def test_json_lines_carry_what_was_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(tmp_path, "json")
    logging.getLogger("onelane.test").info("a step ended", extra={"account": "müller", "seconds": 1.5})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["message"]) == ("info", "onelane.test", "a step ended")
    assert (line["account"], line["seconds"]) == ("müller", 1.5)
    assert line["time"].endswith("+00:00")


def test_libraries_that_report_everything_are_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(tmp_path, "text")
    logging.getLogger("httpx2").info("HTTP Request: GET …")
    logging.getLogger("httpx2").warning("worth a look")
    assert [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == ["worth a look"]


def test_no_part_of_an_alert_url_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token, url = "T0ken-0123456789", f"json://robot:{SECRET}@127.0.0.1:9/hooks/T0ken-0123456789?key=q%2Bvalue-99"
    logs.configure(Settings.load(data_dir=tmp_path, alert_urls=[url]))
    logging.getLogger("onelane.test").warning("%s failed: %s at /hooks/%s, q+value-99, 127.0.0.1", url, SECRET, token)
    written = capsys.readouterr().err
    assert not [each for each in (SECRET, token, "value-99") if each in written]
    assert "127.0.0.1" in written, "a host is no secret, and many lines report it"
