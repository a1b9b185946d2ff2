"""Shell completion of names and ids, from the service.

Invariant: if the service is down, slow or refuses, there are no completions, and neither an error nor a long wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from ..client import Onelane
from .context import Caller

SECONDS = 2.0
_MAX_ROWS = 30

Completion = Callable[[typer.Context, str], list[str]]


def _completion(ask: Callable[[Onelane, str], Iterable[str]]) -> Completion:
    """The values from `ask` that begin with the typed text."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        given = ctx.params
        caller = Caller(url=given.get("url"), key=given.get("key"), data_dir=given.get("data_dir"))
        try:
            with caller.connect(timeout_seconds=SECONDS, retries=0) as onelane:
                found = dict.fromkeys(ask(onelane, incomplete))
        except Exception:
            # A shell cannot show an error during completion; the command itself will.
            return []
        return [each for each in found if each.startswith(incomplete)][:_MAX_ROWS]

    return complete


accounts = _completion(
    lambda onelane, typed: (each["account"] for each in onelane.accounts.list(q=typed or None, limit=_MAX_ROWS))
)
lanes = _completion(lambda onelane, _: (each["lane"] for each in onelane.lanes.list()))
pipelines = _completion(lambda onelane, _: (each["name"] for each in onelane.pipelines()))
jobs = _completion(lambda onelane, typed: (each["id"] for each in onelane.jobs.list(q=typed or None, limit=_MAX_ROWS)))
drafts = _completion(lambda onelane, _: (each["id"] for each in onelane.drafts.list(limit=_MAX_ROWS)))
schedules = _completion(lambda onelane, _: (each["id"] for each in onelane.schedules.list(limit=_MAX_ROWS)))
dead_letters = _completion(lambda onelane, _: (each["id"] for each in onelane.dead_letters.list(limit=_MAX_ROWS)))
