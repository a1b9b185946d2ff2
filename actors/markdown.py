"""Markdown to safe HTML, and text that can be compared after a publisher has typeset it.

Only `render` turns a draft's body into HTML. Raw HTML in the Markdown is shown as text, and the result is cleaned
again, so that a manipulated model can publish neither a script nor a ``data:`` URL.
"""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore

#: The beginnings of tasks in a list, and their signs: check boxes are form elements, which no post may have.
_TASKS = {"[ ] ": "\u2610 ", "[x] ": "\u2611 ", "[X] ": "\u2611 "}


def _mark_tasks(state: StateCore) -> None:
    """Turn ``[ ]`` and ``[x]`` at the beginning of a list item into signs."""
    for item, paragraph, text in zip(state.tokens, state.tokens[1:], state.tokens[2:], strict=False):
        if (item.type, paragraph.type, text.type) != ("list_item_open", "paragraph_open", "inline"):
            continue
        first = text.children[0] if text.children else None
        if first is not None and first.type == "text" and first.content[:4] in _TASKS:
            first.content = _TASKS[first.content[:4]] + first.content[4:]


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_MARKDOWN.core.ruler.push("tasks", _mark_tasks)

_TAGS = frozenset(
    "a abbr b blockquote br code dd del div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img li ol p pre q s span "
    "strong sub sup table tbody td tfoot th thead tr u ul".split()
)
_ATTRIBUTES = {
    "a": {"href", "title"},
    "abbr": {"title"},
    "img": {"src", "alt", "title", "width", "height"},
    "ol": {"start"},
    "td": {"colspan", "rowspan", "style"},
    "th": {"colspan", "rowspan", "scope", "style"},
}
#: Only the alignment of a cell's style is kept.
_STYLES = {"text-align"}
_URL_SCHEMES = {"http", "https", "mailto"}

#: Elements that separate words: without a space "<p>one</p><p>two</p>" would read "onetwo".
_BLOCKS = frozenset(
    "address article aside blockquote br caption dd div dl dt figcaption figure footer h1 h2 h3 h4 h5 h6 header hr li "
    "main nav ol p pre section table tbody td tfoot th thead tr ul".split()
)
_UNSEEN = frozenset({"script", "style", "template", "noscript", "head"})

# WordPress shows these as emoji (wp-includes/functions.php, smilies_init), so a comparison ignores them.
_SMILIES = frozenset(
    ":mrgreen: :neutral: :twisted: :arrow: :shock: :smile: :???: :cool: :evil: :grin: :idea: :oops: :razz: :roll: "
    ":wink: :cry: :eek: :lol: :mad: :sad: 8-) 8-O :-( :-) :-? :-D :-P :-o :-x :-| ;-) 8O :( :) :? :D :P :o :x :| ;) "
    ":!: :?:".split()
)


def render(markdown: str) -> str:
    """Safe HTML for a draft's Markdown: links carry ``rel``, no scripts, styles, raw HTML or ``data:`` URLs."""
    return clean_html(_MARKDOWN.render(markdown))


def clean_html(html: str) -> str:
    """The HTML reduced to text markup that is safe on a public page."""
    return nh3.clean(
        html,
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        url_schemes=_URL_SCHEMES,
        filter_style_properties=set(_STYLES),
        link_rel="nofollow noopener noreferrer",
    )


def plain_text(html: str) -> str:
    """The visible text of the HTML as one line: without markup, each run of white space a single space."""
    reader = _TextReader()
    reader.feed(html)
    reader.close()
    return " ".join("".join(reader.parts).split())


def comparable(text: str) -> str:
    """A key that is equal after a publisher has typeset a text, and different if words are missing or changed.

    Publishers turn quotes and dashes into typographic ones, ``...`` into an ellipsis, ``2x4`` into ``2×4``,
    ``Wordpress`` into ``WordPress`` and ``:)`` into an emoji. Letters, digits, currency and mathematical signs are
    kept, in order; everything else is dropped. A text with none of them is compared without white space.
    """
    words = [word for word in unicodedata.normalize("NFKC", text).split() if word not in _SMILIES]
    folded = re.sub(r"(?<=\d)×(?=\d)", "x", "".join(words)).casefold()
    key = "".join(char for char in folded if unicodedata.category(char) in _COMPARED)
    return key or "".join(text.split())


_COMPARED = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Nl", "No", "Sc", "Sm"})


class _TextReader(HTMLParser):
    """Collects the text of a document; the parser decodes character references."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag in _BLOCKS:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in _BLOCKS:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)
