"""Markdown becomes safe HTML, and texts stay comparable after a publisher has set them."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.markdown import clean_html, comparable, plain_text, render


def test_markdown_becomes_the_markup_it_stands_for() -> None:
    html = render(
        "## Head\n\n*a* **b** `c`\n\n- one\n\n1. two\n\n> q\n\n| x |\n|---|\n| y |\n\n~~gone~~\n\n```\ncode\n```"
    )
    for tag in ("h2", "em", "strong", "code", "ul", "ol", "blockquote", "table", "s", "pre"):
        assert f"<{tag}>" in html
    assert render("[a](https://x.example)") == (
        '<p><a href="https://x.example" rel="nofollow noopener noreferrer">a</a></p>\n'
    )


def test_tables_keep_their_alignment_and_lists_their_tasks() -> None:
    html = render("| a | b | c |\n|:--|:-:|--:|\n| 1 | 2 | 3 |")
    for alignment in ("left", "center", "right"):
        assert html.count(f'style="text-align:{alignment}"') == 2
    tasks = render("- [ ] open\n- [x] done\n  - [X] below\n\n1. [x]\n2. a [ ] b\n\n[x] no item")
    assert plain_text(tasks) == "☐ open ☑ done ☑ below [x] a [ ] b [x] no item"
    assert clean_html('<td style="text-align:right;position:fixed">').count("position") == 0


class Elements(HTMLParser):
    """The elements of a document as a browser would build them: names and attributes, not look-alikes in text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [(name, value or "") for name, value in attrs]))


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "![x](data:image/svg+xml;base64,PHN2Zz4=)",
        '[x](https://a.example "\\" onmouseover=\\"alert(1)")',
        "<iframe src=https://a.example></iframe>",
        "<a href='vbscript:x'>x</a>",
        "<style>*{display:none}</style>",
    ],
)
def test_nothing_in_a_draft_comes_alive(attack: str) -> None:
    seen = Elements()
    seen.feed(render(attack))
    for tag, attributes in seen.found:
        assert tag in {"p", "a", "img"}
        for name, value in attributes:
            assert name in {"href", "rel", "title", "src", "alt"}
            assert name not in {"href", "src"} or value.startswith("https://")


@given(st.text())
def test_whatever_the_text_cleaning_changes_nothing_more(text: str) -> None:
    html = render(text)
    assert clean_html(html) == html


def test_the_text_of_html_has_its_words_apart_and_no_scripts() -> None:
    html = "<h1>One</h1><p>two<br>three &amp; <b>fo</b>ur</p><script>no()</script><ul><li>five</li><li>six</li></ul>"
    assert plain_text(html) == "One two three & four five six"


@pytest.mark.parametrize(
    ("written", "typeset"),
    [
        ('It\'s "so" -- really...', "It’s “so” – really…"),
        ("2x4 and 'quotes'", "2×4 and ‘quotes’"),
        ("Wordpress  rocks\n:)", "WordPress rocks 🙂"),
        ("``old''  (tm)", "“old”  ™"),
        ("ﬁne", "fine"),
        ("!!!", "!!!"),
    ],
)
def test_typesetting_is_no_difference(written: str, typeset: str) -> None:
    assert comparable(written) == comparable(typeset)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b c", "a c"), ("1 + 1", "1 1"), ("café", "cafe"), ("", "x"), ("!!!", "???"), ("日本", "日木"), ("5€", "5$")],
)
def test_other_words_are_a_difference(one: str, other: str) -> None:
    assert comparable(one) != comparable(other)
