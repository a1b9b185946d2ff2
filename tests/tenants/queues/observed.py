"""What worker processes did, as an observer beside them saw it: attempts with a beginning and an end, and P1 judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a message. `end` is infinite while it runs; for a process that died, the time of its death."""

    account: str
    number: int
    epoch: int
    start: float
    end: float
    pid: int


def events(client: Any, kind: str) -> list[list[str]]:
    """The lines of a kind: [kind, number, account, epoch, time, pid]."""
    found = [raw.decode().split(" ") for raw in client.lrange("events", 0, -1)]
    return [each for each in found if each[0] == kind]


def attempts(client: Any, died: Mapping[int, float] | None = None) -> list[Attempt]:
    """All attempts in the order of their beginning; `died`: pid of a killed process → when."""
    ends: dict[tuple[str, str, str], float] = {}
    for kind in ("end", "interrupted"):
        for _, number, _, epoch, at, pid in events(client, kind):
            ends[number, epoch, pid] = float(at)
    found = []
    for _, number, account, epoch, at, pid in events(client, "start"):
        end = ends.get((number, epoch, pid), (died or {}).get(int(pid), float("inf")))
        found.append(Attempt(account, int(number), int(epoch), float(at), end, int(pid)))
    return sorted(found, key=lambda each: each.start)


def overlaps(found: list[Attempt]) -> list[tuple[Attempt, Attempt]]:
    """Pairs of attempts of one account of which the second began before the first had ended: breaches of P1."""
    latest: dict[str, Attempt] = {}
    pairs = []
    for each in found:
        before = latest.get(each.account)
        if before is not None and each.start < before.end:
            pairs.append((before, each))
        if before is None or each.end > before.end:
            latest[each.account] = each
    return pairs


def runs(found: list[Attempt]) -> Counter[int]:
    """Number of the message → how often it began."""
    return Counter(each.number for each in found)


def recovery(found: list[Attempt], since: float, accounts: Collection[str] = ()) -> float:
    """Seconds from `since` to the next beginning (of one of the accounts)."""
    later = [each.start for each in found if each.start > since and (not accounts or each.account in accounts)]
    return min(later) - since


#: What a loaded machine may add to a bound, s.
SLACK = 5.0


def report(what: str, seconds: float, bound: float) -> None:
    """Prints a recovery time, for whoever reads the tests' output, and holds it to its bound."""
    print(f"recovery: {what}: {seconds:.2f} s (bound {bound:.2f} s)")
    assert seconds <= bound, what
