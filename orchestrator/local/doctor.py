"""`onelane doctor`: examines each part that the service needs, and says how to fix what is wrong.

Every examination is bounded in time, changes nothing, and never shows a secret.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.markup import escape

from ..settings import Settings, SettingsError
from ..terminal import console, print_json
from . import examinations
from .findings import Finding, wrong

_MARKS = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "wrong": "[bold red]wrong[/]  "}


def examine(data_dir: Path | None = None) -> list[Finding]:
    """Examine every part. If the settings are wrong, they are the only findings."""
    try:
        settings = Settings.load(data_dir=data_dir)
    except SettingsError as error:
        fix = "correct it in the environment, .env or onelane.toml"
        return [wrong("settings", fault, fix) for fault in error.faults]
    every = (
        examinations.settings,
        examinations.data_dir,
        examinations.database,
        examinations.secrets,
        examinations.redis,
        examinations.pipelines,
        examinations.publishers,
        examinations.browser,
        examinations.model,
        examinations.alerts,
    )
    return [finding for examination in every for finding in _guarded(examination, settings)]


def settings_are_readable(findings: Sequence[Finding]) -> bool:
    """False if the settings' own faults are the only findings."""
    return any(each.part != "settings" or each.status != "wrong" for each in findings)


def _guarded(examination: Callable[[Settings], list[Finding]], settings: Settings) -> list[Finding]:
    """Its findings. A failure of the examination is one too, without the error's message, which may hold a secret."""
    try:
        return examination(settings)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        message = f"the examination failed: {type(error).__name__} at {at.filename}:{at.lineno}"
        fix = "check the setting of this part; if it is right, report this line as a fault of onelane"
        return [wrong(examination.__name__, message, fix)]


def print_findings(findings: Sequence[Finding], *, json: bool) -> None:
    """One document for programs; for people a line each, and below it how to fix it."""
    if json:
        is_well = all(each.status != "wrong" for each in findings)
        print_json({"ok": is_well, "findings": [each.as_json() for each in findings]})
        return
    for finding in findings:
        console.print(f"{_MARKS[finding.status]}{finding.part:<9} {escape(finding.message)}", soft_wrap=True)
        if finding.fix:
            console.print(f"                 → {escape(finding.fix)}", soft_wrap=True)
