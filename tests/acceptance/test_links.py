"""Links and paths in the documents point at what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import ROOT

DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
#: Folders whose paths are given in code type.
FOLDERS = "tenants|actors|orchestrator|deploy|tests|docs"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_point_at_files_and_headings_that_exist(name: str) -> None:
    document = ROOT / name
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_in_the_documents_exist(name: str) -> None:
    paths = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", (ROOT / name).read_text("utf-8"))
    missing = [path for path in paths if not (ROOT / path).exists() and "NAME" not in path]  # a placeholder
    assert missing == []
