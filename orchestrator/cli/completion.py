"""What the shell offers for a value: names and ids that the service knows now.

Invariant: a service that is away, slow or refuses leaves the shell without an offer, never with an error or a wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from ..client import Onelane
from .context import Caller

_SECONDS = 2.0
_MOST = 30

Offer = Callable[[typer.Context, str], list[str]]


def _offer(ask: Callable[[Onelane, str], Iterable[str]]) -> Offer:
    """What `ask` finds that begins with what is typed."""

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        given = ctx.params
        caller = Caller(url=given.get("url"), key=given.get("key"), data_dir=given.get("data_dir"))
        try:
            with caller.connect(timeout_seconds=_SECONDS, retries=0) as onelane:
                found = dict.fromkeys(ask(onelane, incomplete))
        except Exception:
            # A shell that completes has nowhere to show what is wrong; the command itself will say it.
            return []
        return [each for each in found if each.startswith(incomplete)][:_MOST]

    return offer


accounts = _offer(
    lambda onelane, typed: (each["account"] for each in onelane.accounts.list(q=typed or None, limit=_MOST))
)
lanes = _offer(lambda onelane, _: (each["lane"] for each in onelane.lanes.list()))
pipelines = _offer(lambda onelane, _: (each["name"] for each in onelane.pipelines()))
jobs = _offer(lambda onelane, typed: (each["id"] for each in onelane.jobs.list(q=typed or None, limit=_MOST)))
drafts = _offer(lambda onelane, _: (each["id"] for each in onelane.drafts.list(limit=_MOST)))
schedules = _offer(lambda onelane, _: (each["id"] for each in onelane.schedules.list(limit=_MOST)))
dead_letters = _offer(lambda onelane, _: (each["id"] for each in onelane.dead_letters.list(limit=_MOST)))
