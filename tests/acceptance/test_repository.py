"""What must hold for the files of this repository, whoever edits them."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orchestrator.settings import Settings
from tests import ROOT

SKIPPED_FOLDERS = {".git", ".venv", ".onelane", "node_modules", "__pycache__", "dist", "build"}
#: In pieces, so that this file does not hold them itself.
REGISTRY_HOSTS = ("py" + "pi.org", "pythonhosted" + ".org", "registry.npm" + "js.org", "deb.debian" + ".org")


def files() -> list[Path]:
    """The repository's own files: what git knows and what it would add."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        found = [ROOT / name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive has no git
        found = [path for path in ROOT.rglob("*") if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)]
    return [path for path in found if path.is_file()]


def test_no_file_names_a_package_registry() -> None:
    pattern = re.compile("|".join(map(re.escape, REGISTRY_HOSTS)))
    named = [str(path.relative_to(ROOT)) for path in files() if pattern.search(path.read_text("utf-8", "replace"))]
    assert named == []


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_lock_files_pin_and_hash_every_requirement(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "index-url" not in text
    entries = re.split(r"\n(?=[A-Za-z0-9])", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    entries = [entry for entry in entries if entry.strip()]
    assert len(entries) > 30
    for entry in entries:
        head = entry.strip().splitlines()[0]
        assert re.match(r"[A-Za-z0-9_.-]+(\[[a-z,]+\])?==\S+", head), head
        assert "--hash=sha256:" in entry, head


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_lock_files_hold_every_dependency(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"])
    extras = project["project"]["optional-dependencies"]
    wanted += [each for extra, packages in extras.items() if extra != "all" for each in packages]
    if name == "dev":
        wanted += project["dependency-groups"]["dev"]
    locked = set(re.findall(r"^([A-Za-z0-9_.-]+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
    normal = {re.sub(r"[-_.]+", "-", each).lower() for each in locked}
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ]", each)[0]).lower() for each in wanted}
    assert names <= normal


@pytest.mark.slow
def test_imports_run_one_way() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    linted = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert linted.returncode == 0, linted.stdout


def test_scripts_of_the_deployment_are_valid_shell() -> None:
    for path in (ROOT / "deploy" / "bootstrap", ROOT / ".ci" / "run", ROOT / "requirements" / "compile"):
        assert path.stat().st_mode & 0o111, f"{path} is not executable"
        subprocess.run(["bash", "-n", path], check=True, timeout=60)


def test_compose_gives_the_containers_every_setting() -> None:
    """A variable that a user sets in `deploy/.env` must not be dropped without a word."""
    text = (ROOT / "deploy/compose.yaml").read_text()
    program = runpy.run_path(str(ROOT / "deploy/compose-settings"))
    assert program["block"]() in text, "run .venv/bin/python deploy/compose-settings"
    passed = set(re.findall(r"\$\{([A-Z_]+)", text))
    explained = set(re.findall(r"^#?\s?([A-Z_]+)=", (ROOT / "deploy/env.example").read_text(), re.MULTILINE))
    explained |= set(re.findall(r"ONELANE_[A-Z_]+", (ROOT / "deploy/env.example").read_text()))
    assert explained <= passed
    known = {program["variable"](name) for name in Settings.model_fields if name not in program["LEFT_OUT"]}
    assert known <= passed | {"ONELANE_DATABASE_URL", "ONELANE_REDIS_URL"}
    assert program["LEFT_OUT"] <= set(Settings.model_fields)
