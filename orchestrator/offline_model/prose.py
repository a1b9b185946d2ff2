"""Extracts the sentences of a source text, plain or Markdown, that fit an article.

Other content is left out: code blocks, tables, images, HTML, badges, bare links, labels and headings. Code spans are
kept between two private characters, so that the text around them can be escaped.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

from .languages import HAN, HANGUL, KANA, sentences, word_count

CODE_OPENS, CODE_CLOSES = "\ue000", "\ue001"
#: Characters that are read of one source, which limits the work per request.
MAX_CHARACTERS = 200_000

_PRIVATE = re.compile("[\ue000-\uf8ff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FRONT_MATTER = re.compile(r"\A\ufeff?---\n(?:.*\n){0,100}?---\n")
_HTML_PAGE = re.compile(r"\A\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)
#: Many Markdown READMEs also begin like this, with a logo: it is HTML only if there is no Markdown in it.
_HTML_FRAGMENT = re.compile(r"\A\s*<(?:article|section|main|div|p|h[1-6])\b", re.IGNORECASE)
_HTML_BLOCK_END = re.compile(r"</(?:p|div|li|h[1-6]|tr|blockquote|section|article)>|<br\s*/?>", re.IGNORECASE)
_MARKDOWN = re.compile(r"^(?:#{1,6} |```|~~~|\|.*\||[-*+] |\d+\. |> |={3,}$|-{3,}$)|\]\(|\*\*|`", re.MULTILINE)
_LINK = re.compile(r"\w+://|www\.|\S+@\S+\.\w")
_CODE = re.compile(r"""\w_\w*\(|\w\(["')]|[;{}]\Z|=>|->""")
_ENDING = re.compile(r"[.!?…。！？｡](?:[\"'”’»」』）)\ue001]*)\Z")
_NUMBERING = re.compile(r"^(?:§\s*)?[\dIVX]{1,3}(?:\.\d+)*[.)]?\s+")
_WIDE = re.compile(f"[{HAN}{KANA}{HANGUL}]")
_PAIRS = (("(", ")"), ("[", "]"), ("「", "」"), ("“", "”"), (CODE_OPENS, CODE_CLOSES))
_parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and its place; positions count from 0 within their source."""

    text: str
    source: int
    section: int
    paragraph: int
    position: int
    #: It is from a list, so often without context.
    listed: bool


@dataclass(slots=True)
class Section:
    """A heading (empty before the first) and the paragraphs under it; a paragraph is `(text, listed)`."""

    heading: str
    level: int
    paragraphs: list[tuple[str, bool]] = field(default_factory=list)


def read_sections(text: str) -> list[Section]:
    """The sections of a source, in order."""
    text = _PRIVATE.sub("", text[:MAX_CHARACTERS].replace("\r\n", "\n").replace("\r", "\n"))
    text = _FRONT_MATTER.sub("", text)
    markdown = _MARKDOWN.search(text) is not None
    if _HTML_PAGE.match(text) or (_HTML_FRAGMENT.match(text) and not markdown):
        text = _text_of_html(text)
    elif markdown:
        return _markdown_sections(text)
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", text)]
    return [Section("", 0, [(each, False) for each in paragraphs if each])]


def read_sentences(sections: list[Section], source: int, language: str) -> list[Sentence]:
    """The usable sentences of a source's sections, in order."""
    found: list[Sentence] = []
    paragraph_number = position = 0
    for number, section in enumerate(sections):
        for paragraph, listed in section.paragraphs:
            for index, text in enumerate(sentences(paragraph, language)):
                if is_prose(text, opens_paragraph=index == 0):
                    found.append(Sentence(text, source, number, paragraph_number, position, listed))
                position += 1
            paragraph_number += 1
    return found


def is_prose(text: str, *, opens_paragraph: bool) -> bool:
    """True for a complete sentence."""
    shown = text.replace(CODE_OPENS, "").replace(CODE_CLOSES, "")
    wide = len(_WIDE.findall(shown))
    long_enough = wide >= 10 or (word_count(shown) >= 5 and len(shown) >= 25)
    if not long_enough or len(shown) > 500 or not _ENDING.search(text) or _LINK.search(shown):
        return False
    outside = re.sub(f"{CODE_OPENS}[^{CODE_CLOSES}]*{CODE_CLOSES}", "", text)
    if _CODE.search(outside):
        return False
    first = shown[0]
    if not (first.isalnum() or first in "\"'“„«「『(") or (first.islower() and not opens_paragraph):
        return False
    if any(text.count(opens) != text.count(closes) for opens, closes in _PAIRS):
        return False
    letters = sum(map(str.isalpha, outside))
    return letters >= 0.6 * len(outside.replace(" ", "")) and letters >= 0.5 * len(shown.replace(" ", ""))


def clean_heading(text: str) -> str:
    """A heading without its number; empty when it is too long to be one."""
    heading = _NUMBERING.sub("", text).strip().rstrip(":：")
    return heading if len(heading) <= 90 else ""


def to_markdown(text: str) -> str:
    """A sentence or heading as Markdown that shows exactly its text, code spans included."""
    parts = re.split(f"{CODE_OPENS}([^{CODE_CLOSES}]*){CODE_CLOSES}", text)
    out = [_code_span(part) if index % 2 else escape(part) for index, part in enumerate(parts)]
    return "".join(out)


def escape(text: str) -> str:
    """Plain text as Markdown that shows it as it is."""
    text = _PRIVATE.sub("", text)
    escaped = re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", text)
    # At the start of a line these would start a list.
    escaped = re.sub(r"^([-+])", r"\\\1", escaped)
    return re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", escaped)


def _code_span(code: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * (longest + 1)
    padded = f" {code} " if code.startswith("`") or code.endswith("`") else code
    return f"{fence}{padded}{fence}"


def _markdown_sections(text: str) -> list[Section]:
    found = [Section("", 0)]
    tables = lists = 0
    heading: int | None = None
    for token in _parser.parse(text):
        if token.type == "table_open":
            tables += 1
        elif token.type == "table_close":
            tables -= 1
        elif token.type == "list_item_open":
            lists += 1
        elif token.type == "list_item_close":
            lists -= 1
        elif token.type == "heading_open":
            heading = int(token.tag[1])
        elif token.type == "heading_close":
            heading = None
        elif token.type == "html_block" and not tables:
            found[-1].paragraphs += [(each, False) for each in _text_of_html(token.content).split("\n\n") if each]
        elif token.type == "inline" and not tables:
            plain = _text_of_inline(token.children or [])
            if heading is not None:
                found.append(Section(clean_heading(plain), heading))
            elif plain:
                found[-1].paragraphs.append((plain, lists > 0))
    return [each for each in found if each.heading or each.paragraphs]


def _text_of_inline(children: list[Token]) -> str:
    out: list[str] = []
    for token in children:
        if token.type in ("text", "text_special"):
            out.append(token.content)
        elif token.type == "code_inline":
            out.append(f"{CODE_OPENS}{token.content}{CODE_CLOSES}")
        elif token.type in ("softbreak", "hardbreak"):
            # Between two Han or Kana characters a line break is not a space.
            out.append("" if out and re.match(f"[{HAN}{KANA}。、]", out[-1][-1:]) else " ")
    return " ".join("".join(out).split())


def _text_of_html(text: str) -> str:
    """The text of HTML, a blank line between its blocks."""
    marked = _HTML_BLOCK_END.sub("\n\n", text)
    plain = html.unescape(nh3.clean(marked, tags=set(), clean_content_tags={"script", "style"}))
    paragraphs = [" ".join(_PRIVATE.sub("", each).split()) for each in re.split(r"\n\s*\n", plain)]
    return "\n\n".join(each for each in paragraphs if each)
