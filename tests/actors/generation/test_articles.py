"""What the offline model writes: real sentences of the sources, in order, labelled, the same each time."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from actors.pipelines.blog import BlogInput, build_prompt
from orchestrator.offline_model.article import MAX_TAG, MAX_TAGS, MAX_TITLE, Article, depends_on_previous, write_article
from orchestrator.offline_model.languages import detect, sentences, word_count
from orchestrator.offline_model.prompt import MAX_SOURCES, Request, read_prompt
from orchestrator.offline_model.prose import escape, read_sections, to_markdown
from tests.actors.generation.source_texts import source

any_speed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def write(*sources: str, topic: str = "A topic", words: int = 400, **options: object) -> Article:
    return write_article(Request(topic, sources, words=words, **options))  # type: ignore[arg-type]


def shown(markdown: str) -> str:
    """The text that a reader sees, with one space for any white space."""
    tokens = MarkdownIt("commonmark").parse(markdown)
    texts = [child.content for token in tokens for child in token.children or [] if child.content]
    return " ".join(" ".join(texts).split())


@pytest.mark.parametrize(
    ("name", "language"),
    [("english.txt", "en"), ("german.txt", "de"), ("korean.txt", "ko"), ("japanese.txt", "ja"), ("readme.md", "en")],
)
def test_every_sentence_stands_in_the_source_and_in_its_order(name: str, language: str) -> None:
    # Given a real text; when an article is written from it
    article = write(source(name))
    # Then its sentences are the source's, unchanged and in order, in the source's language
    plain = "".join(source(name).replace("`", "").replace("*", "").split())
    positions = [plain.find("".join(each.split())) for each in article.sentences]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert len(positions) >= 5
    assert article.language == language
    assert article.tags


@pytest.mark.parametrize("name", ["english.txt", "german.txt", "korean.txt", "japanese.txt", "readme.md"])
@pytest.mark.parametrize("language", ["en", "de", "ko", "ja", "fr", None])
def test_every_article_says_who_wrote_it(name: str, language: str | None) -> None:
    closing = write(source(name), language=language).body.rsplit("\n\n", 1)[-1]
    assert "offline model" in closing
    assert closing.startswith("*")


def test_markdown_structure_never_leaks_as_prose() -> None:
    body = write(source("readme.md"), topic="Lights of a model railway", words=2000).body
    text = shown(body)
    for leak in ("must never", "How often", "interval_seconds", "indented", "short item", "link only", "http"):
        assert leak not in text
    for leak in ("|", "img", "layout:", "HTML cell", "pip install", "build", "Run the installer"):
        assert leak not in text
    # Prose, code spans and headings came through; numbers and emphasis of the source did not
    assert "`lanterns.toml`" in body
    assert "## How it works" in body
    assert "## Settings" in body
    assert "lanterns is a small library" in text
    assert "A list item may be a whole sentence" in text
    assert "A quotation may be part of the story" in text


def test_a_sentence_that_depends_on_previous_on_another_never_stands_alone() -> None:
    text = source("readme.md") + "\n\n" + source("english.txt")
    for words in (50, 100, 200, 400):
        article = write(text, words=words)
        for before, after in zip(("", *article.sentences), article.sentences, strict=False):
            if depends_on_previous(after, "en"):
                assert before, f"{after!r} opens the article"
                flat = " ".join(text.replace("`", "").replace("*", "").split())
                assert f"{before} {after}" in flat


def test_the_length_is_kept_and_more_words_bring_more() -> None:
    text = "\n\n".join(source(name) for name in ("english.txt", "readme.md"))
    lengths = [sum(map(word_count, write(text, words=words).sentences)) for words in (60, 120, 300)]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert lengths[0] <= 100


def test_the_topic_draws_the_choice() -> None:
    text = source("english.txt") + "\n\n" + source("readme.md")
    assert "embers" in write(text, topic="raking the embers out of an oven", words=50).body
    assert "timetable" in write(text, topic="timetable of a railway", words=50).body


def test_each_source_has_its_say_and_doubles_are_said_once() -> None:
    article = write(source("english.txt"), source("readme.md"), source("english.txt"), words=300)
    assert any("oven" in each for each in article.sentences)
    assert any("lights" in each for each in article.sentences)
    assert len(set(article.sentences)) == len(article.sentences)


def test_the_same_request_gives_the_same_article() -> None:
    request = Request("Ovens", (source("english.txt"), source("readme.md")), keywords=("bread",))
    assert write_article(request) == write_article(request)


def test_keywords_and_title_hint_are_honoured() -> None:
    article = write(source("english.txt"), title_hint="One fire, one day", keywords=("baking", "clay oven"))
    assert article.title == "One fire, one day"
    assert article.tags[:2] == ("baking", "clay oven")


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "no source"), ("de", "keine Quelle"), ("ko", "자료를 받지"), ("ja", "資料がありません")],
)
def test_without_a_source_it_says_so_and_states_nothing(language: str, words: str) -> None:
    article = write(topic="Bees & [hives]", language=language, keywords=("wax",))
    opening = shown(article.body.split("\n\n")[0])
    assert words in opening
    assert "offline model" in opening
    assert "Bees & [hives]" in opening
    assert "wax" in article.body
    assert not re.search(r"\d{2,}", article.body), "no figure was invented"


def test_sources_without_prose_are_named_as_such() -> None:
    body = write(
        "```python\nprint('Nothing here is prose, it is all code.')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    ).body
    assert "no prose" in body
    assert "print" not in body


def test_it_does_not_translate_and_says_so() -> None:
    assert "übersetzt nicht" in write(source("english.txt"), language="de").body
    assert "translate" not in write(source("english.txt"), language="en-GB").body


def test_html_pages_lose_their_markup_and_scripts() -> None:
    page = """<!doctype html><html><script>alert('This is a script and no prose.')</script>
    <p>The page holds a sentence that can be used &amp; shown.</p><p>A second paragraph stands apart from it.</p>"""
    body = write(page).body
    assert "used \\& shown" in body
    assert "script" not in body
    assert "<" not in body.replace("\\<", "")


def test_sentences_keep_abbreviations_ordinals_and_quotations_whole() -> None:
    assert sentences("Am 5. Tag riecht er sauer. Er reift z. B. im Glas.", "de") == [
        "Am 5. Tag riecht er sauer.",
        "Er reift z. B. im Glas.",
    ]
    assert sentences("祖母は「毎日、入れて。」と言いました。次です。", "ja") == [
        "祖母は「毎日、入れて。」と言いました。",
        "次です。",
    ]
    assert len(sentences("Dr. Evans came at 6 p.m. on Jan. 5. It was version 3.11 of it.", "en")) == 2


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The bread is in the oven and it is hot.", "en"),
        ("Das Brot ist im Ofen und es ist heiß.", "de"),
        ("Le pain est dans le four et il est chaud.", "fr"),
        ("El pan está en el horno y está muy caliente.", "es"),
        ("Хлеб лежит в печи, и он уже горячий.", "ru"),
        ("빵이 오븐에 있습니다.", "ko"),
        ("パンはオーブンの中です。", "ja"),
        ("面包在烤箱里。", "zh"),
    ],
)
def test_languages_are_distinguished(text: str, language: str) -> None:
    assert detect(text) == language


@any_speed
@given(st.text("ab*_`[]()<>#|~&\\!.1)-+ é글", max_size=60))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    expected = " ".join(text.split())
    if expected:
        assert shown(escape(expected)) == expected


@any_speed
@given(st.text("ab` \\*", min_size=1, max_size=12).filter(str.strip))
def test_code_spans_survive_any_content(code: str) -> None:
    markdown = f"x {to_markdown(f'{chr(0xE000)}{code}{chr(0xE001)}')} y"
    inline = MarkdownIt("commonmark").parse(markdown)[1].children or []
    found = [each.content for each in inline if each.type == "code_inline"]
    assert [each.strip() for each in found] == [code.strip()]


PIECES = st.sampled_from(
    (
        *("# Heading", "## Another", "```", "~~~", "| a | b |", "|---|---|", "- item", "    code", "<div>", "</div>"),
        *("> quoted text that goes on.", "[link](x)", "![image](x)", "---", "\x00", "\ue000", "\ue001", "`", "", "\r"),
        *("A sentence that has enough words to be used.", "그것은 충분히 긴 문장입니다.", "これは十分に長い文です。"),
        *("[source 1 begins 0123456789abcdef]", "[source 1 ends 0123456789abcdef]", '{"topic": "another"}', "1. "),
    )
)
texts = st.lists(PIECES | st.text(max_size=30), max_size=12).map("\n".join)


@any_speed
@given(
    st.lists(texts.filter(lambda text: (len(text) > 0 and text.isprintable()) or True).filter(bool), max_size=3), texts
)
def test_any_sources_give_an_article_within_its_bounds(sources: list[str], topic: str) -> None:
    request = Request(topic[:300].strip() or "t", tuple(sources))
    article = write_article(request)
    assert 0 < len(article.title) <= MAX_TITLE
    assert "offline model" in article.body
    assert len(article.tags) <= MAX_TAGS
    assert all(0 < len(tag) <= MAX_TAG for tag in article.tags)
    assert not re.search("[\ue000\ue001\x00]", article.body)
    assert article == write_article(request)


@any_speed
@given(st.lists(texts.filter(bool), min_size=1, max_size=4), st.text('ab\n{}"글', min_size=1).filter(str.strip))
def test_no_source_breaks_out_of_its_fence(sources: list[str], topic: str) -> None:
    wanted = BlogInput(topic=topic, sources=sources)
    request = read_prompt(build_prompt(wanted))
    assert request.sources == tuple(sources)
    assert request.topic == " ".join(topic.split())


@any_speed
@given(texts)
def test_any_prompt_can_be_read(prompt: str) -> None:
    request = read_prompt(prompt)
    assert request.topic
    assert len(request.sources) <= MAX_SOURCES


def test_a_plain_prompt_is_a_topic_or_a_text() -> None:
    assert read_prompt("bees").sources == ()
    long = read_prompt("Ovens\n\n" + source("english.txt"))
    assert long.topic == "Ovens"
    assert "embers" in write_article(long).body


def test_a_hostile_nesting_is_read_in_time() -> None:
    for text in (">" * 50_000, "[" * 50_000, "*a" * 40_000, "- " * 20_000, "`" * 90_000, "<a " * 30_000, "(" * 90_000):
        assert isinstance(read_sections(text), list)
