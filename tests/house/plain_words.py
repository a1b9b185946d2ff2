"""The words that this project does not use, and where they stand all the same.

`python -m tests.house.plain_words` prints each finding with the word to use instead. `test_plain_words` holds the
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
    r"on_sqlite|run_on_sqlite|run_one|one_statement|one_job": "the store's one implementation for each database",
    r"quickest_way|long_way|short_way|short_ways|quick_way": "fast path, general path",
    r"_LOOK": "SELECT_…",
    r"its_slot": "p_slot",
    r"_leave_letter": "insert dead letter",
    r"_gave_up": "fail if outcome unknown",
    r"_steer": "apply signal",
    r"Gone|Owned|Cell": "NotRunnable, OwnedAttempt, SpareProcess",
    r"carry_account|made_settings|MadeSettings": "sync account, configured settings",
    r"owes_bell": "must re-signal",
    r"_twice|twice": "with one retry",
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
    Allowed("tenants/migrations/versions/*", r".*", "a migration that was released is not changed"),
    Allowed("tests/house/plain_words.py", r".*", "the list itself"),
    Allowed("tenants/*operation_models.py", r"told|telling", "columns that migrations made"),
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
_LUA_COMMENT = re.compile(r"--.*$")


def findings() -> list[Finding]:
    """What stands in the repository's files, in the order of their paths."""
    found = [each for path in _paths() for each in in_file(path)]
    return [each for each in found if not _is_allowed(each)]


def in_file(path: str) -> Iterator[Finding]:
    """The findings of one file, named from the repository's root."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".py"):
        yield from _in_python(path, text)
    elif path.endswith(".lua"):
        yield from _in_lua(path, text)
    else:
        yield from _in_prose(path, text, 1)


def _paths() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    wanted = ("*.py", "*.lua", "*.md", "*.js", "*.html", "*.yaml", "*.service", "*.toml", "*.example", "Makefile")
    skipped = ("CHANGELOG.md", "tests/generation/sources/*", "requirements/*")
    return sorted(
        path
        for path in listed.split("\0")
        if any(fnmatch(path, each) for each in wanted)
        and not any(fnmatch(path, each) for each in skipped)
        and (ROOT / path).is_file()
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
    for pattern, instead in _NAMES:
        if pattern.fullmatch(name):
            yield Finding(path, line, name, instead)
    parts = re.findall(r"[a-z0-9]+|[A-Z][a-z0-9]*|[A-Z]+", name)
    for pattern, instead in _PARTS:
        if any(pattern.fullmatch(part.lower()) for part in parts):
            yield Finding(path, line, name, instead)


def _in_prose(path: str, text: str, first: int) -> Iterator[Finding]:
    for pattern, instead in _PHRASES:
        for match in pattern.finditer(text):
            word = " ".join(match.group().split())
            yield Finding(path, first + text.count("\n", 0, match.start()), word, instead)


def _is_allowed(finding: Finding) -> bool:
    return any(fnmatch(finding.path, each.paths) and re.fullmatch(each.word, finding.word) for each in ALLOWED)


def main() -> int:
    found = findings()
    print("\n".join(map(str, found)))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
