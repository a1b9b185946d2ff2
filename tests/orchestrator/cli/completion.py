"""Completion of command lines, as bash asks for it."""

from __future__ import annotations

import sys

import pytest

from orchestrator.cli.app import run


def complete(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash is offered for the last of the words, in this process."""
    monkeypatch.setattr(sys, "argv", ["onelane"])
    monkeypatch.setenv("_ONELANE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    capsys.readouterr()
    run(None)
    return capsys.readouterr().out.split()
