"""The texts below `sources`."""

from __future__ import annotations

from pathlib import Path

SOURCES = Path(__file__).parent / "sources"


def source(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")
