"""The mapping of failures by itself: quota days over changes of the clock, and bodies of any shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from google.genai import errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.clients.gemini import run_bounded
from actors.clients.gemini_failures import from_http, seconds_until_quota_day_ends
from actors.clients.json_answers import parse_answer
from actors.errors import OutputTruncated, ProviderError
from actors.pipelines.blog import Article, tidy
from actors.signals import ProviderBusy

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
#: A busy machine is no fault of the code: no limit of time per example.
any_speed = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        (datetime(2026, 7, 1, 6, 59, tzinfo=UTC), 1 / 60),  # 23:59 in summer
        (datetime(2026, 7, 1, 7, tzinfo=UTC), 24),  # midnight begins the next day
        (datetime(2026, 1, 15, 7, tzinfo=UTC), 1),  # 23:00 in winter
        (datetime(2026, 3, 8, 8, tzinfo=UTC), 23),  # the clock goes forward on this day
        (datetime(2026, 11, 1, 7, tzinfo=UTC), 25),  # and back on this one
    ],
)
def test_the_quota_day_ends_at_midnight_in_california(now: datetime, hours: float) -> None:
    assert seconds_until_quota_day_ends(now) == hours * 3600


words = st.text("ab{}\n 글", max_size=6) | st.sampled_from(["details", "violations", "quotaId", "retryDelay", "5s"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
details = st.dictionaries(
    st.sampled_from(["error", "message", "status", "code"]),
    json_values | st.dictionaries(st.sampled_from(["details", "message", "status", "code"]), json_values),
)


@any_speed
@given(code=st.integers(400, 599), body=details)
def test_any_error_body_has_a_meaning_and_the_secret_is_not_in_it(code: int, body: Any) -> None:
    try:
        error = errors.APIError(code, body)
    except AttributeError:  # the SDK itself cannot read this body; over HTTP that is "not its protocol"
        return
    mapped = from_http(error, model="m", credential="c", secret="s3cr3t", now=NOW)
    assert isinstance(mapped, ProviderError | ProviderBusy)
    assert isinstance(mapped, ProviderBusy) == (code == 429)


def test_a_secret_in_a_message_is_scrubbed() -> None:
    error = errors.APIError(403, {"error": {"message": "key s3cr3t may not", "status": "PERMISSION_DENIED"}})
    assert "s3cr3t" not in str(from_http(error, model="m", credential="c", secret="s3cr3t", now=NOW))


@any_speed
@given(st.text('ab"\\\n{글', max_size=60), st.data())
def test_every_beginning_of_a_good_answer_is_cut_off_and_nothing_else(body: str, data: st.DataObject) -> None:
    whole = Article(title="T", body=body + ".", tags=["a"]).model_dump_json()
    length = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(OutputTruncated):
        parse_answer(whole[:length], Article)
    assert parse_answer(whole, Article).body == body + "."
    with pytest.raises(ProviderError, match="not JSON"):
        parse_answer(whole + "}", Article)


GOOD = {"title": "T, ]", "body": "a\n\n```\nx = [1,]\n``` },", "tags": ["a", "b,"]}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: f"```json\n{text}\n```",
        lambda text: f"```\n{text}\n```\n",
        lambda text: f"```json\n{text}",
        lambda text: f"Here is the article:\n\n{text}\n\nI hope that it helps.",
        lambda text: "\ufeff" + text,
        lambda text: f"[{text}]",
        lambda text: json.dumps(text),
        lambda text: text[:-1] + ", }",
        lambda text: text.replace('"]', '",\n]'),
        lambda text: "```json\n" + text.replace('"]', '" , ]').replace("\\n", "\n") + "\n```",
    ],
)
def test_json_with_one_meaning_is_repaired(wrap: Callable[[str], str]) -> None:
    assert parse_answer(wrap(json.dumps(GOOD)), Article).model_dump() == GOOD


@any_speed
@given(st.text('ab"\\\n{}[],글 ', max_size=60), st.data())
def test_a_cut_off_answer_is_never_completed_however_it_is_wrapped(body: str, data: st.DataObject) -> None:
    whole = json.dumps({"tags": ["x"], "title": "T", "body": body + "."}).replace('"x"]', '"x",]')
    length = data.draw(st.integers(2, len(whole) - 1))
    with pytest.raises(OutputTruncated):
        parse_answer("```json\n" + whole[:length], Article)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I cannot help with that.", "not JSON"),
        ('{"title" "T"}', "not JSON"),
        ('```json\n{"title": "T",}\n```', "body: Field required"),
        ('"just words"', "does not match"),
        ("[" * 100_000, "breaks off|not JSON"),
        ('{"a": "' + '\\"' * 200_000 + '", }', "title: Field required"),
    ],
    ids=["prose", "no colon", "lacks a field", "a string", "deep", "long"],
)
def test_what_has_no_meaning_is_refused(text: str, words: str) -> None:
    with pytest.raises((ProviderError, OutputTruncated), match=words):
        parse_answer(text, Article)


def test_escaped_texts_become_what_was_meant() -> None:
    meant = Article(title="Don’t “wait”", body="## One\n\nTwo – three.\n\n- 🎉 four \\ five", tags=["größe"])
    texts = {name: value for name, value in meant.model_dump().items() if name != "tags"}
    escaped = {name: json.dumps(text)[1:-1] for name, text in texts.items()}
    assert tidy(Article(**escaped, tags=["gr\\u00f6\\u00dfe"])) == meant


@pytest.mark.parametrize(
    "body",
    [
        "Use `\\n` for a line feed and `\\u2019` for a quote.",
        "It is in C:\\new\\users\\u0041 since then.",
        "One line.\n\nIn Python, `print('a\\nb')` prints two.\n\n```\nx = '\\n\\n# y'\n```",
        "A name \\n may come, where real lines are.\nSee.",
    ],
)
def test_escapes_that_are_meant_stay(body: str) -> None:
    assert tidy(Article(title="Escapes", body=body)).body == body


@pytest.mark.parametrize(
    "body",
    [
        "First.\n\nThen it goes on.\\n\\nAnd on.",
        "First.\n## Head\\n- a",
        "It\\u2019s here.\nAnd there.",
        "Twice: a.\\\\n\\\\nb",
    ],
)
def test_a_text_that_still_looks_escaped_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="escaped once too often"):
        tidy(Article(title="Escapes", body=body))


def test_a_name_lookup_that_hangs_does_not_hold_the_caller() -> None:
    import asyncio
    import threading

    released = threading.Event()

    async def hang_in_a_thread() -> None:
        await asyncio.to_thread(released.wait, 20)

    with pytest.raises(TimeoutError):
        run_bounded(hang_in_a_thread, 0.05)
    assert not released.is_set(), "the caller came back while the thread still waits"
    released.set()
