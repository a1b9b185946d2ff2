"""The text of an alert: a title, and lines with names, codes, ids and commands that help.

Invariant: the text has no message of a step, a page or a provider. Such a message can contain a token, a cookie or a
signed URL, and no pattern finds them all. The alert has the id of the dead letter, which has the message.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

_TITLES = {
    "dead_letter": "a step will not be tried again",
    "login_required": "an account has to sign in",
    "needs_review": "it is unknown whether a post was published",
    "circuit_open": "an account's lane is stopped: too many of its steps failed in a row",
    "circuit_closed": "an account's lane runs again",
    "provider_refused": "a provider refuses a credential: everything that uses it fails",
}
_PLURALS = {
    "dead_letter": "dead letters",
    "login_required": "accounts that have to sign in",
    "needs_review": "posts of which it is unknown whether they were published",
    "circuit_open": "lanes of accounts that are stopped",
    "circuit_closed": "lanes of accounts that run again",
    "provider_refused": "steps that failed because a provider refuses a credential",
}
#: Details that are shown if they are known, in this order.
_FACTS = (
    *("provider", "lane", "pipeline", "step", "error_code", "failures", "until"),
    *("job_id", "dead_letter_id", "publication_id"),
)


class Text(NamedTuple):
    """A message."""

    title: str
    body: str
    #: False: it reports the end of a problem.
    problem: bool


def text_of(rows: Sequence[Mapping[Any, Any]], *, left: int, per_hour: int) -> Text:
    """The message about one alert, or about several that are sent together.

    Args:
        rows: the claimed alerts.
        left: messages that may still be sent in this hour.
        per_hour: the limit of messages per hour.
    """
    text = _one(rows[0]) if len(rows) == 1 else _together(rows)
    if left:
        return text
    note = (
        f"This was the last of {per_hour} messages in this hour (ONELANE_ALERTS_PER_HOUR); the others are sent later."
    )
    return text._replace(body=f"{text.body}\n\n{note}")


def sample_text() -> Text:
    """The message of `onelane alerts test`."""
    return Text("onelane: a test", "Alerts of this onelane reach you here. Nothing is wrong.", False)


def commands(kind: str, account: str | None, details: Mapping[str, Any]) -> list[str]:
    """Shell commands that help to fix the cause."""
    name, letter = shlex.quote(account or ""), details.get("dead_letter_id")
    narrowed = f" --account {name}" if account else ""
    replay = [f"onelane dead-letters replay {letter}"] if letter else []
    match kind:
        case "dead_letter":
            return [f"onelane dead-letters list{narrowed}", *replay]
        case "login_required":
            return [f"onelane accounts session get {name}", f"onelane dead-letters list{narrowed}", *replay]
        case "needs_review":
            publication = details.get("publication_id") or "PUBLICATION"
            return [
                f"onelane drafts list --status needs_review{narrowed}",
                f"onelane publications confirm {publication} URL",
                f"onelane publications retry {publication}",
            ]
        case "circuit_open":
            lane = shlex.quote(str(details.get("lane")))
            return [f"onelane dead-letters list{narrowed}", f"onelane queues resume {lane} {name}"]
        case "provider_refused":
            job = details.get("job_id")
            look = [f"onelane jobs get {job}"] if job else []
            return [*look, "onelane dead-letters replay-all --error-code provider_error --dry-run"]
    return []


def _one(row: Mapping[Any, Any]) -> Text:
    kind, account, details = row["kind"], row["account"], row["details"]
    lines = [f"account: {account}"] if account is not None else []
    lines += [f"{name.replace('_', ' ')}: {details[name]}" for name in _FACTS if details.get(name) is not None]
    lines.append(f"at: {_minute(row['last_at'])}")
    more = row["telling"] - row["told"] - 1
    if more > 0:
        since = row["sent_at"] or row["first_at"]
        lines.append(f"and {more} more like it since {_minute(since)}")
    if kind == "login_required":
        lines.append(
            "Put a new session (onelane accounts session set): the lane continues then. Replay the dead letters."
        )
    if kind == "needs_review":
        lines.append("Check the target yourself, then confirm the post with its URL, or publish it again:")
    helping = commands(kind, account, details)
    if helping:
        lines += ["", *helping]
    whose = f" ({account})" if account is not None else ""
    return Text(f"onelane: {_TITLES[kind]}{whose}", "\n".join(lines), kind != "circuit_closed")


def _together(rows: Sequence[Mapping[Any, Any]]) -> Text:
    happened: Counter[str] = Counter()
    accounts: dict[str, set[str]] = {}
    for row in rows:
        happened[row["kind"]] += row["telling"] - row["told"]
        accounts.setdefault(row["kind"], set()).add(row["account"] or "")
    lines = [
        f"{number} {_PLURALS[kind]}, of {len(accounts[kind])} account{'s' if len(accounts[kind]) > 1 else ''}"
        for kind, number in happened.most_common()
    ]
    lines += [f"since {_minute(min(row['first_at'] for row in rows))}", "", "onelane alerts list"]
    return Text(f"onelane: {sum(happened.values())} alerts together", "\n".join(lines), True)


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
