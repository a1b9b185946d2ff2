"""The campaigns' verdicts, as a table for people and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .campaign import Verdict
from .whole import WholeVerdict


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies; 0 without any."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        **asdict(verdict),
        "ok": verdict.ok,
        "recovery_p50": round(quantile(verdict.recovery_seconds, 0.50), 1),
        "recovery_p99": round(quantile(verdict.recovery_seconds, 0.99), 1),
        "cleared_p99": round(quantile(verdict.cleared_seconds, 0.99), 2),
    }


def table(verdicts: Sequence[Verdict], whole: WholeVerdict | None = None) -> str:
    """One line for each campaign, one for the whole demo, and one for each fault."""
    head: tuple[str, ...] = ("target", "database", "kills", "posts", "lost", "doubled", "unfinished", "left over")
    head += ("kill→done p50", "p99", "tree gone p99", "seconds")
    rows = [head]
    for verdict in verdicts:
        data = as_json(verdict)
        counts = (verdict.lost, verdict.doubled, verdict.unfinished, verdict.left_over)
        rows.append(
            (
                verdict.target,
                verdict.database,
                str(verdict.kills),
                str(verdict.posts),
                *(str(len(each)) for each in counts),
                f"{data['recovery_p50']} s",
                f"{data['recovery_p99']} s",
                f"{data['cleared_p99']} s",
                f"{verdict.seconds:.0f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    faults = [
        f"{verdict.target}: {kind}: {each}"
        for verdict in verdicts
        for kind in ("lost", "doubled", "unfinished", "left_over")
        for each in getattr(verdict, kind)
    ]
    if whole is not None:
        lines.append(
            f"whole demo: {sum(whole.kills.values())} kills ({whole.kills}), {whole.posts} posts, lost {whole.lost}, "
            f"doubled {whole.doubled}, left over {len(whole.left_over)}, last exit code {whole.exit_code}, "
            f"processes gone within {max(whole.cleared_seconds, default=0.0):.1f} s"
        )
    return "\n".join([*lines, *faults])


def dump(verdicts: Sequence[Verdict], whole: WholeVerdict | None = None) -> str:
    data = {"campaigns": [as_json(verdict) for verdict in verdicts]}
    return json.dumps({**data, "whole": None if whole is None else asdict(whole)}, indent=2)
