"""The mapping of failures by itself: quota days over changes of the clock, and bodies of any shape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.genai import errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.blog import Article
from actors.clients.gemini import parse_answer, run_bounded
from actors.clients.gemini_failures import from_http, seconds_until_quota_day_ends
from actors.errors import OutputTruncated, ProviderError
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
