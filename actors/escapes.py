r"""Texts that a model escaped once too often: with ``\n`` and ``\u2019`` as literal characters.

Invariant: Markdown code is not searched for escapes, so that an article about escapes stays unchanged.
"""

from __future__ import annotations

import json
import re

#: Code in Markdown: fenced blocks, and spans between equal runs of backticks.
_CODE = re.compile(r"^(```|~~~).*?^\1|(?<!`)(`+)(?!`)(?:(?!\2).)+?(?<!`)\2(?!`)", re.DOTALL | re.MULTILINE)
#: A Windows path, whose parts may begin with n or u.
_PATH = re.compile(r"\b[A-Za-z]:\\\S*")
_UNICODE = r"\\u[0-9A-Fa-f]{4}"
_ANY = re.compile(rf"\\[nrt]|{_UNICODE}")
#: Escapes that do not occur in prose: two line feeds, one before a heading, list, quote or table, one after a sentence.
_STRUCTURE = re.compile(rf"(?:\\r)?\\n(?:\s*(?:\\r)?\\n|[ \t]*(?:#{{1,6}} |[-*+>|] |\d+[.)] ))|[.!?:]\\n|{_UNICODE}")
_ESCAPE = re.compile(r'\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\[nrtbf"/\\]')


def unescaped(text: str) -> str:
    """The text with its escapes decoded, if it has no real line feeds and has escapes outside of code."""
    if "\n" in text.strip() or not _ANY.search(_prose(text)):
        return text
    return _ESCAPE.sub(_decoded, text)


def unescaped_title(title: str) -> str:
    r"""A title, which has no line feeds: ``\u2019`` is decoded, ``\n`` is not."""
    return _ESCAPE.sub(_decoded, title) if re.search(_UNICODE, _prose(title)) else title


def looks_escaped(text: str) -> str | None:
    """The first escape in the text's prose that cannot be intended; None if there is none."""
    found = _STRUCTURE.search(_prose(text))
    return found[0] if found is not None else None


def _prose(text: str) -> str:
    return _PATH.sub(" ", _CODE.sub(" ", text))


def _decoded(found: re.Match[str]) -> str:
    try:
        decoded: str = json.loads(f'"{found[0]}"')
    except ValueError:
        return found[0]
    # Half of a pair is no character, and could not be stored.
    return decoded if not any("\ud800" <= each <= "\udfff" for each in decoded) else found[0]
