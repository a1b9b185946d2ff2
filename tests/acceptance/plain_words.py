"""The words that this project does not use, and where they stand all the same.

`python -m tests.acceptance.plain_words` prints each finding with the word to use instead. `test_plain_words` holds the
repository to it. Identifiers are compared by their parts (`_tell_redis` has the parts `tell` and `redis`), prose by
phrases: comments, docstrings, other strings that hold a space, and whole documents.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from tests import ROOT

#: Parts of identifiers, as regular expressions that fit a whole part, and what to use instead.
NAME_PARTS = {
    r"tell|tells|told|telling": "notify, insert events, report, return",
    r"hear|hears|heard|unheard": "receive, notice, redis_stale",
    r"mend|mends|mended|heal|heals|healed": "fix, repair",
    r"keeper|keepers": "step supervisor, lease renewer, server watchdog",
    r"carrier|carriers": "settings sync",
    r"grave|graves|burial|burials": "undeliverable messages",
    r"stray|strays": "orphaned",
    r"seat|seats": "contention flag",
    r"combined": "BatchExecutor",
}
#: Whole identifiers.
NAMES = {
    r"_?lead_others|_?step_down|_?hand_on|_?take_along|_?take_lead|_lead": "worker loop, finish, drain pending",
    r"_?let_go|before_waiting": "release_waiters",
    r"InOrder|WritersTurn|_?WaitingRoom|_asking|_sit": "FifoLock, WriterLock, poll with backoff",
    r"_within": "in savepoint",
    r"run_on_sqlite|one_statement|one_job": "the store's one implementation for each database",
    r"quickest_way|long_way|short_way|short_ways|quick_way": "fast path, general path",
    r"_LOOK": "SELECT_…",
    r"its_slot": "p_slot",
    r"_leave_letter": "insert dead letter",
    r"_gave_up": "fail if outcome unknown",
    r"_steer": "apply signal",
    r"Gone|Owned|Cell": "NotRunnable, OwnedAttempt, SpareProcess",
    r"carry_account|made_settings|MadeSettings": "sync account, configured settings",
    r"owes_bell": "must re-signal",
    r"_twice": "with one retry",
}
#: Phrases of prose; a space stands for any white space.
PHRASES = {
    r"tells?|telling|told|untold": "says, reports, notifies, shows, returns",
    r"hears?|heard|unheard": "receives, notices, is notified",
    r"mend|mends|mended|mending|heals?|healed|healing": "fix, repair",
    r"lets? (?:(?:it|him|them|others|the \w+|their \w+) )?go|letting go|let go": "releases, ends",
    r"go(?:es)? along|went along|gone along": "runs in the same batch, is included",
    r"take[sn]? along|took along|brings? along": "includes, starts",
    r"on (?:the|its|their|his) way": "in progress, in flight, being sent",
    r"has its way|have their way": "applies",
    r"there to (?:hear|say|tell|stop)": "running",
    r"interpreter[’']s lock": "the GIL",
    r"nobody(?: \w+){0,6} any more": "no process … now",
    r"(?:long|short|quick|quickest) ways?": "general path, fast path",
    r"keepers?": "step supervisor, lease renewer, server watchdog",
    r"carriers?": "settings sync",
    r"graves?|burials?|gravedigger": "undeliverable messages",
    r"strays?": "orphaned",
    r"waiting room|writer's turns?|writers' turns?": "contention flag, writer lock",
    r"wait(?:s|ed)? for company": "waits for a larger batch",
    r"falls? silent|fell silent|fallen silent": "stops renewing, stops answering",
    r"owes? (?:the|a) bell": "must re-signal",
    r"has (?:the|its) turn|whose turn it is|in (?:its|their) turn": "holds the lock, is next",
    r"by the back door|by (?:this|these) doors?|the only door": "through",
    r"lies? awake|asleep|falls? asleep": "idle, waiting",
    r"(?:is|are|was|were) none the wiser": "",
}


@dataclass(frozen=True)
class Allowed:
    """A word that stays in some files, with the reason."""

    paths: str
    word: str
    reason: str


ALLOWED = (
    Allowed("docs/queues.md", r"graves", "the name of a key in Redis"),
    Allowed("tests/*plain_words.py", r".*", "the list itself, and its test"),
    Allowed("tenants/migrations/versions/*", r".*", "a released migration is not changed"),
    Allowed("orchestrator/client/types/alerts.py", r"told", "a JSON field that clients read"),
    Allowed("orchestrator/web/*alerts.py", r"told", "a JSON field that clients read"),
    Allowed("tenants/*models.py", r"told|telling", "columns of a released table"),
    Allowed("tenants/store/*alerts.py", r"told|telling", "columns of a released table"),
    Allowed("tests/*alert*.py", r"told|telling", "columns of a released table, and a JSON field that clients read"),
)


@dataclass(frozen=True)
class Finding:
    """A word that is not used, at its place."""

    path: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r} (use: {self.instead})"


_PARTS = [(re.compile(pattern), instead) for pattern, instead in NAME_PARTS.items()]
_NAMES = [(re.compile(pattern), instead) for pattern, instead in NAMES.items()]
_PHRASES = [
    (re.compile(rf"(?<![\w`-])(?:{pattern})(?![\w-])".replace(" ", r"\s+"), re.IGNORECASE), instead)
    for pattern, instead in PHRASES.items()
]
#: Most texts hold none: one search is enough for them.
_ANY_PHRASE = re.compile("|".join(pattern.pattern for pattern, _ in _PHRASES), re.IGNORECASE)
_LUA_COMMENT = re.compile(r"--.*$")


def findings(root: Path = ROOT) -> list[Finding]:
    """What the repository's files contain, in the order of their paths, without the exceptions."""
    found = [each for path in _paths(root) for each in in_file(path, root)]
    return [each for each in found if not any(_fits(allowed, each) for allowed in ALLOWED)]


def is_needed(allowed: Allowed) -> bool:
    """Whether a file still contains what the exception allows."""
    paths = (path for path in _paths(ROOT) if fnmatch(path, allowed.paths))
    return any(_fits(allowed, each) for path in paths for each in in_file(path))


def in_file(path: str, root: Path = ROOT) -> Iterator[Finding]:
    """The findings of one file, which is named from the root."""
    text = (root / path).read_text("utf-8")
    if path.endswith(".py"):
        yield from _in_python(path, text)
    elif path.endswith(".lua"):
        yield from _in_lua(path, text)
    else:
        yield from _in_prose(path, text, 1)


def _paths(root: Path) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout.decode()
    wanted = ("*.py", "*.lua", "*.md", "*.js", "*.html", "*.yaml", "*.service", "*.toml", "*.example", "Makefile")
    skipped = ("CHANGELOG.md", "tests/actors/generation/sources/*", "requirements/*")
    return sorted(
        path
        for path in listed.split("\0")
        if any(fnmatch(path, each) for each in wanted)
        and not any(fnmatch(path, each) for each in skipped)
        and (root / path).is_file()
    )


def _in_python(path: str, text: str) -> Iterator[Finding]:
    comment: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if comment and line != first + len(comment):
                yield from _in_prose(path, "\n".join(comment), first)
                comment = []
            first = first if comment else line
            comment.append(token.string.lstrip("#: "))
        elif token.type == tokenize.NAME:
            yield from _in_name(path, token.string, line)
        elif token.type in _STRINGS and " " in token.string:
            yield from _in_prose(path, token.string, line)
    yield from _in_prose(path, "\n".join(comment), first)


_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def _in_lua(path: str, text: str) -> Iterator[Finding]:
    prose = "\n".join(found.group() if (found := _LUA_COMMENT.search(line)) else "" for line in text.splitlines())
    yield from _in_prose(path, prose.replace("--", "  "), 1)
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r"'[^']*'|\"[^\"]*\"", "", _LUA_COMMENT.sub("", line))
        for name in re.findall(r"[A-Za-z_]\w*", code):
            yield from _in_name(path, name, number)


def _in_name(path: str, name: str, line: int) -> Iterator[Finding]:
    for instead in _replacements(name):
        yield Finding(path, line, name, instead)


@cache
def _replacements(name: str) -> list[str]:
    found = [instead for pattern, instead in _NAMES if pattern.fullmatch(name)]
    parts = {part.lower() for part in re.findall(r"[a-z0-9]+|[A-Z][a-z0-9]*|[A-Z]+", name)}
    return found + [instead for pattern, instead in _PARTS if any(map(pattern.fullmatch, parts))]


def _in_prose(path: str, text: str, first: int) -> Iterator[Finding]:
    if not _ANY_PHRASE.search(text):
        return
    for pattern, instead in _PHRASES:
        for match in pattern.finditer(text):
            word = " ".join(match.group().split())
            yield Finding(path, first + text.count("\n", 0, match.start()), word, instead)


def _fits(allowed: Allowed, finding: Finding) -> bool:
    return fnmatch(finding.path, allowed.paths) and re.fullmatch(allowed.word, finding.word) is not None


def main() -> int:
    found = findings()
    print("\n".join(map(str, found)))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
