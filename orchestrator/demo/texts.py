"""The texts and accounts of the demo."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".md", ".txt")
#: The longest source of a `blog` job; a longer text becomes several sources.
_SOURCE_CHARACTERS = 100_000
#: A longer text is cut, because a request's body is limited.
_MOST_CHARACTERS = 250_000
_TITLE_CHARACTERS = 150


class NoTexts(Exception):
    """The folder does not exist, or has no file that can be published."""


@dataclass(frozen=True, slots=True)
class Text:
    """A file that becomes a post of each account. `key` changes with its name and its content."""

    name: str
    title: str
    content: str
    key: str

    def sources(self) -> list[str]:
        return [self.content[at : at + _SOURCE_CHARACTERS] for at in range(0, len(self.content), _SOURCE_CHARACTERS)]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not published, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """An account of the demo and its user at the demo blog. The ids are unusual on purpose."""

    account: str
    username: str
    blog_title: str
    tone: str
    length: str

    def password(self, secret: str) -> str:
        """The blog user's password: the same at each start, and different for each user."""
        return hmac.new(secret.encode(), f"demo blog {self.username}".encode(), "sha256").hexdigest()[:32]

    def input(self, text: Text) -> dict[str, Any]:
        """The `blog` pipeline's input for a text."""
        return {
            "topic": text.title,
            "sources": text.sources(),
            "tone": self.tone,
            "length": self.length,
            "title_hint": text.title,
        }


#: Ids with letters beyond ASCII, a slash, spaces, an emoji, a colon and a star; two differ only in case.
ACCOUNTS = (
    DemoAccount("acme", "acme", "Acme, in brief", "matter-of-fact", "short"),
    DemoAccount("ACME", "acme-capitals", "ACME, in capitals", "lively", "medium"),
    DemoAccount("müller & söhne", "mueller", "Müller & Söhne", "careful", "medium"),
    DemoAccount("tokyo/東京", "tokyo", "Tokyo 東京", "friendly", "short"),
    DemoAccount("🍞 crumbs: daily*", "crumbs", "🍞 Crumbs, daily", "warm", "long"),
)


def read_texts(folder: Path) -> tuple[list[Text], list[Skipped]]:
    """The folder's own *.md and *.txt files by name (folders in it are not entered), and those that cannot be used.

    Raises:
        NoTexts: there is no such folder, it cannot be read, or it holds no text that can be published.
    """
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise NoTexts(f"{folder}: the folder cannot be read: {error.strerror}") from None
    texts: list[Text] = []
    skipped: list[Skipped] = []
    for path in names:
        found = _read(path)
        if isinstance(found, Text):
            texts.append(found)
        else:
            skipped.append(found)
    if not texts:
        why = "; ".join(f"{each.name}: {each.reason}" for each in skipped) or "there is none"
        raise NoTexts(f"{folder}: no *.md or *.txt file in it can be published ({why})")
    return texts, skipped


def _read(path: Path) -> Text | Skipped:
    try:
        raw = path.read_bytes()
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Skipped(path.name, "it is not UTF-8 text")
    except OSError as error:
        return Skipped(path.name, f"it cannot be read: {error.strerror}")
    if not content.strip():
        return Skipped(path.name, "it is empty")
    if "\0" in content:
        return Skipped(path.name, "it holds a null character, so it is no text")
    key = hashlib.sha256(path.name.encode("utf-8", "surrogateescape") + b"\0" + raw).hexdigest()[:20]
    shown = path.name.encode("utf-8", "replace").decode()
    return Text(shown, _title(content, path.stem), content[:_MOST_CHARACTERS], key)


def _title(content: str, stem: str) -> str:
    """The first heading, or the file's name as words."""
    heading = re.search(r"^#{1,3}\s+(\S.*?)\s*#*$", content, re.MULTILINE)
    words = heading[1] if heading else stem.replace("-", " ").replace("_", " ")
    plain = re.sub(r"[*_`<>\[\]]", "", words.encode("utf-8", "replace").decode())
    return " ".join(plain.split())[:_TITLE_CHARACTERS] or "Untitled"
