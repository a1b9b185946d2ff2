"""Edits a text in the user's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import typer


def edit(text: str) -> str:
    """The text after $VISUAL, $EDITOR or vi has edited it.

    Raises:
        BadParameter: there is no terminal to edit on, or the editor failed.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    if not sys.stdin.isatty() and "VISUAL" not in os.environ and "EDITOR" not in os.environ:
        raise typer.BadParameter("there is no terminal to edit on: give --title, --body or --tag")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draft.md"
        path.write_text(text, encoding="utf-8")
        try:
            ended = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
        except OSError as error:
            raise typer.BadParameter(f"the editor {command!r} cannot be started: {error}") from None
        if ended:
            raise typer.BadParameter(f"the editor {command!r} ended with status {ended}; nothing was changed")
        return path.read_text(encoding="utf-8")
