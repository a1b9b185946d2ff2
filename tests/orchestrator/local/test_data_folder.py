"""The data directory: one owner at a time, keys that stay, ports that stay."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.local.data_folder import DataFolder, FolderBusy

HOLD = """
import sys
from pathlib import Path
from orchestrator.local.data_folder import DataFolder
with DataFolder(Path(sys.argv[1])).claimed():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data")
    made.create()
    return made


def test_the_directory_is_its_owners_only(folder: DataFolder) -> None:
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_second_owner_is_refused_by_name_until_the_first_is_gone(folder: DataFolder) -> None:
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(FolderBusy, match=f"process {first.pid}"), folder.claimed():
            raise AssertionError("it was claimed twice")
        assert folder.owner() == first.pid
        first.kill()
        first.wait(timeout=60)
    # The pid of the dead owner still stands in the file; it is in nobody's way.
    with folder.claimed():
        assert folder.owner() == os.getpid()


def test_a_key_is_made_once_and_kept_to_its_owner(folder: DataFolder) -> None:
    made = folder.key("admin")
    assert len(made) >= 40
    assert folder.key("admin") == made == DataFolder(folder.path).kept_key("admin")
    assert folder.key("secret") != made
    assert stat.S_IMODE((folder.path / "admin.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.path.iterdir()) == ["admin.key", "secret.key"]


def test_no_key_is_none(folder: DataFolder) -> None:
    assert folder.kept_key("admin") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"api": "x"}', '{"api": 0}', '{"api": 70000}'])
def test_ports_that_cannot_be_read_are_forgotten(folder: DataFolder, text: str) -> None:
    (folder.path / "ports.json").write_text(text)
    assert folder.ports() == {}


def test_ports_are_kept(folder: DataFolder) -> None:
    folder.keep_ports({"api": 8700, "demo_blog": 8701})
    assert DataFolder(folder.path).ports() == {"api": 8700, "demo_blog": 8701}
