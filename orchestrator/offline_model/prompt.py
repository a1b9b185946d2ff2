"""Parses a prompt: request and sources of the `blog` pipeline, or any other text.

A prompt of the pipeline has its request as one line of JSON, and its sources between fence lines with one id. Any other
prompt is a topic if it is short, else a source whose first line is the topic.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

#: Most sources that are read of one prompt.
MAX_SOURCES = 50
_REQUEST = re.compile(r"^\{.*\}$", re.MULTILINE)
_FENCED = re.compile(
    r"^\[source (?P<number>\d{1,3}) begins (?P<id>[0-9a-f]{8,64})\]\n(?P<text>.*?)\n"
    r"\[source (?P=number) ends (?P=id)\]$",
    re.MULTILINE | re.DOTALL,
)
#: A longer prompt is a source, not only a topic.
_LONGEST_TOPIC = 300
_DEFAULT_WORDS = 400


@dataclass(frozen=True, slots=True)
class Request:
    """The topic and sources of an article."""

    topic: str
    sources: tuple[str, ...] = ()
    language: str | None = None
    words: int = _DEFAULT_WORDS
    keywords: tuple[str, ...] = ()
    title_hint: str | None = None


def read_prompt(prompt: str) -> Request:
    """The request in a prompt; any text is a valid prompt."""
    first_fence = prompt.find("\n[source ")
    head = prompt if first_fence < 0 else prompt[:first_fence]
    asked = _request_of(head)
    sources = _sources_of(prompt)
    if asked is None:
        return _plain(prompt, sources)
    return Request(
        topic=_line(asked["topic"]),
        sources=sources,
        language=_text(asked.get("language")),
        words=_words(asked.get("words")),
        keywords=_keywords(asked.get("keywords")),
        title_hint=_text(asked.get("title_hint")),
    )


def _sources_of(prompt: str) -> tuple[str, ...]:
    """The fenced texts. Only fences with the first fence's id count, so a source cannot contain one."""
    found: list[str] = []
    fence_id: str | None = None
    for match in _FENCED.finditer(prompt):
        fence_id = fence_id or match["id"]
        if match["id"] == fence_id and len(found) < MAX_SOURCES:
            found.append(match["text"])
    return tuple(found)


def _request_of(head: str) -> dict[str, Any] | None:
    for match in _REQUEST.finditer(head):
        try:
            value = json.loads(match[0])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("topic"), str) and value["topic"].strip():
            return value
    return None


def _plain(prompt: str, sources: tuple[str, ...]) -> Request:
    lines = [line for line in prompt.splitlines() if line.strip()]
    topic = _line(lines[0]) if lines else "(empty prompt)"
    if not sources and len(prompt.strip()) > _LONGEST_TOPIC:
        sources = (prompt,)
    return Request(topic=topic, sources=sources)


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TOPIC]


def _text(value: Any) -> str | None:
    return _line(value) or None if isinstance(value, str) else None


def _words(value: Any) -> int:
    return min(max(value, 50), 5000) if isinstance(value, int) and not isinstance(value, bool) else _DEFAULT_WORDS


def _keywords(value: Any) -> tuple[str, ...]:
    given = value if isinstance(value, list) else []
    return tuple(_line(each) for each in given[:30] if isinstance(each, str) and each.strip())
