"""The verdicts of chaos runs, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.crashes.report import quantile

from .run import Verdict

_SAMPLES = ("recovery_seconds", "kill_recovery_seconds")


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        **{name: getattr(verdict, name) for name in verdict.__slots__ if name not in ("findings", *_SAMPLES)},
        "kills": sum(verdict.killed.values()),
        "findings": verdict.findings.by_kind(),
        **{
            f"{name.removesuffix('_seconds')}_p{round(100 * share)}": round(quantile(getattr(verdict, name), share), 2)
            for name in _SAMPLES
            for share in (0.50, 0.99)
        },
        "ok": verdict.ok,
    }


def table(verdicts: Sequence[Verdict], *, shown: int = 10) -> str:
    """The figures side by side, then up to `shown` violations of each kind."""
    rows = [("", *(verdict.database for verdict in verdicts))]

    def row(name: str, *values: object) -> None:
        rows.append((name, *map(str, values)))

    row("jobs accepted", *(verdict.accepted for verdict in verdicts))
    row("kills", *(_kills(verdict.killed) for verdict in verdicts))
    row("POSTs refused and repeated", *(verdict.refusals for verdict in verdicts))
    row("jobs by status", *(_counts(verdict.statuses) for verdict in verdicts))
    row("attempts by outcome", *(_counts(verdict.outcomes) for verdict in verdicts))
    row("runs that were seen", *(verdict.runs for verdict in verdicts))
    row("irreversible posts", *(verdict.posts for verdict in verdicts))
    row("attacks", *(sum(verdict.attacks.values()) for verdict in verdicts))
    for kind in sorted({kind for verdict in verdicts for kind in verdict.attacks}):
        row(f"  {kind}", *(verdict.attacks.get(kind, 0) for verdict in verdicts))
    row("ends of processes by status", *(_counts(verdict.exits) for verdict in verdicts))
    for name, samples in (
        ("kill to the account's next effect", [verdict.kill_recovery_seconds for verdict in verdicts]),
        ("any death to the step's next try", [verdict.recovery_seconds for verdict in verdicts]),
    ):
        row(f"{name}, seen", *map(len, samples))
        for share in (0.50, 0.99):
            row(f"{name}, p{round(100 * share)}", *(f"{quantile(each, share):.1f} s" for each in samples))
    row("attacked for", *(f"{verdict.attack_seconds:.0f} s" for verdict in verdicts))
    row("all ended after", *(f"{verdict.drain_seconds:.0f} s" for verdict in verdicts))
    for kind in verdicts[0].findings.by_kind():
        row(f"VIOLATIONS {kind}", *(len(verdict.findings.by_kind()[kind]) for verdict in verdicts))
    row("VIOLATIONS processes left over", *(len(verdict.left_over) for verdict in verdicts))
    widths = [max(len(line[column]) for line in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    for verdict in verdicts:
        found = {**verdict.findings.by_kind(), "left over": verdict.left_over}
        for kind, sentences in found.items():
            lines += [f"{verdict.database} {kind}: {sentence}" for sentence in sentences[:shown]]
            if len(sentences) > shown:
                lines.append(f"{verdict.database} {kind}: … and {len(sentences) - shown} more")
    return "\n".join(lines)


def _kills(killed: dict[str, int]) -> str:
    return f"{sum(killed.values())}: {_counts(killed)}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
