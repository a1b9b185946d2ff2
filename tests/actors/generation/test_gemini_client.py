"""The real SDK against the offline model: every answer that Gemini can give becomes the right error or signal."""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from actors.clients.gemini import TextModel, wire_schema
from actors.errors import (
    ContentBlocked,
    OutputTruncated,
    ProviderError,
    ProviderRefused,
    ProviderTimeout,
)
from actors.pipelines.blog import Article, tidy
from actors.signals import ProviderBusy
from orchestrator.offline_model.faults import Fault
from tests.actors.generation.local_model import KEY, OfflineModel

MakeModel = Callable[..., TextModel]
SOURCE = "Every account has its own queue. The queue runs one job at a time, in the order in which they came in."


def ask(model: TextModel) -> Any:
    return model.generate_json(f"Queues\n\n{SOURCE * 4}", system="Write a post.", schema=Article)


def test_an_answer_carries_value_version_and_tokens(text_model: MakeModel) -> None:
    answer = ask(text_model())
    assert isinstance(answer.value, Article)
    assert "its own queue" in answer.value.body
    assert answer.model == "offline-model-1"
    assert answer.tokens_in > 50
    assert answer.tokens_out > 20


def test_the_offline_model_never_passes_as_gemini(text_model: MakeModel) -> None:
    answer = ask(text_model(offline=False))
    assert answer.offline, "its version gives it away, whatever the settings say"
    assert ask(text_model(offline=True)).offline


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault("blocked_prompt"), ContentBlocked, "prompt (SAFETY)"),
        (Fault("blocked_prompt", reason="PROHIBITED_CONTENT"), ContentBlocked, "PROHIBITED_CONTENT"),
        (Fault("finish", reason="SAFETY"), ContentBlocked, "SAFETY"),
        (Fault("finish", reason="RECITATION"), ContentBlocked, "RECITATION"),
        (Fault("finish", reason="PROHIBITED_CONTENT"), ContentBlocked, "PROHIBITED_CONTENT"),
        (Fault("finish", reason="SPII"), ContentBlocked, "SPII"),
        (Fault("finish", reason="MAX_TOKENS"), OutputTruncated, "limit on tokens"),
        (Fault("cut_json"), OutputTruncated, "breaks off"),
        (Fault("finish", reason="OTHER"), ProviderError, "OTHER"),
        (Fault("finish", reason="PUP_LIMITED_DISABLED"), ProviderRefused, "disabled"),
        (Fault("finish", reason="STOP"), ProviderError, "empty answer"),
        (Fault("empty"), ProviderError, "without a candidate"),
        (Fault("wrong_schema"), ProviderError, "title: Field required"),
        (Fault("garbage"), ProviderError, "not its protocol"),
        (Fault("status", status=500), ProviderError, "500 INTERNAL"),
        (Fault("status", status=503, message="The model is overloaded."), ProviderError, "overloaded"),
        (Fault("status", status=504), ProviderTimeout, "504"),
        (Fault("status", status=404), ProviderRefused, "ONELANE_TEXT_MODEL"),
        (Fault("status", status=401), ProviderRefused, "GEMINI_API_KEY"),
        (Fault("status", status=403), ProviderRefused, "GEMINI_API_KEY"),
        (Fault("status", status=400, detail="API_KEY_INVALID", message=f"bad {KEY}"), ProviderRefused, "[key]"),
        (Fault("status", status=400, message="too many tokens"), ProviderRefused, "too many tokens"),
        (Fault("quota", reason="zero"), ProviderRefused, "no quota at all for model 'gemini-3.8-flash'"),
        (Fault("quota", reason="credits"), ProviderRefused, "credits of the Gemini key are used up"),
    ],
    ids=lambda value: f"{value.kind}-{value.reason or value.status}" if isinstance(value, Fault) else "",
)
def test_each_failure_is_distinguished(
    text_model: MakeModel, offline_model: OfflineModel, fault: Fault, error: type[ProviderError], words: str
) -> None:
    offline_model.faults.add(fault)
    with pytest.raises(Exception) as caught:
        ask(text_model())
    assert type(caught.value) is error
    assert words in str(caught.value)


def test_what_a_person_must_fix_is_permanent_and_the_rest_is_not() -> None:
    assert ProviderRefused.permanent
    assert ContentBlocked.permanent
    assert not ProviderError.permanent
    assert not ProviderTimeout.permanent
    assert not OutputTruncated.permanent


@pytest.mark.parametrize(
    ("fault", "after"),
    [
        (Fault("quota", reason="minute", retry_delay="27s"), 27.0),
        (Fault("quota", reason="minute", retry_delay="0.25s"), 1.0),
        (Fault("quota", reason="minute"), 60.0),
        (Fault("quota"), 60.0),
        (Fault("quota", reason="minute", retry_delay="soon"), 60.0),
    ],
)
def test_a_quota_per_minute_makes_everybody_with_the_key_wait(
    text_model: MakeModel, offline_model: OfflineModel, fault: Fault, after: float
) -> None:
    offline_model.faults.add(fault)
    with pytest.raises(ProviderBusy) as caught:
        ask(text_model())
    assert caught.value.after == after
    assert caught.value.scope == "gemini:3f2a"


def test_a_key_without_quota_or_credits_is_refused_for_all_its_users(
    text_model: MakeModel, offline_model: OfflineModel
) -> None:
    refused = [Fault("quota", reason="zero"), Fault("quota", reason="credits"), Fault("status", status=403)]
    for fault in refused:
        offline_model.faults.add(fault)
        with pytest.raises(ProviderRefused) as caught:
            ask(text_model())
        assert caught.value.permanent
        assert caught.value.scope == "gemini:3f2a"
    # A model's name or a request is wrong for this step alone
    for status in (404, 400):
        offline_model.faults.add(Fault("status", status=status, message="not this one"))
        with pytest.raises(ProviderRefused) as caught:
            ask(text_model())
        assert caught.value.scope is None


def test_a_credential_that_must_rest_is_not_asked(offline_model: OfflineModel) -> None:
    settings = {"api_key": KEY, "base_url": offline_model.url, "model": "m", "offline": False, "credential": "3f2a"}
    model = TextModel({**settings, "busy_seconds": 12.5}, lambda: 30.0)
    offline_model.faults.add(Fault("status", status=500))
    with pytest.raises(ProviderBusy) as caught:
        ask(model)
    assert (caught.value.after, caught.value.scope) == (12.5, "gemini:3f2a")
    assert offline_model.faults.take("") is not None, "the fault is still there: no request arrived"


def test_an_answer_in_a_fence_with_a_last_comma_needs_no_second_call(
    text_model: MakeModel, offline_model: OfflineModel
) -> None:
    plain = ask(text_model()).value
    offline_model.faults.add(Fault("fenced"))
    assert ask(text_model()).value == plain


def test_an_escaped_answer_becomes_what_was_meant(text_model: MakeModel, offline_model: OfflineModel) -> None:
    plain = tidy(ask(text_model()).value)
    offline_model.faults.add(Fault("escaped"))
    escaped = ask(text_model()).value
    assert "\n" not in escaped.body
    assert tidy(escaped) == plain


def test_a_quota_per_day_waits_for_midnight_in_california(text_model: MakeModel, offline_model: OfflineModel) -> None:
    offline_model.faults.add(Fault("quota", reason="day", retry_delay="5s"))
    with pytest.raises(ProviderBusy, match="daily quota") as caught:
        ask(text_model())
    assert caught.value.after is not None
    assert 0 < caught.value.after <= 25 * 3600


@pytest.mark.parametrize(
    "fault",
    [Fault("hang"), Fault("trickle", seconds=0.05), Fault("slow", seconds=30)],
    ids=lambda fault: fault.kind,
)
def test_a_call_ends_in_time_whatever_the_server_does(
    text_model: MakeModel, offline_model: OfflineModel, fault: Fault
) -> None:
    # Given a step with three seconds left, of which two are kept back
    offline_model.faults.add(fault)
    model = text_model(seconds=3.0)
    # When the server hangs, or sends a byte now and then
    begun = time.monotonic()
    with pytest.raises(ProviderTimeout):
        ask(model)
    # Then the call is over
    assert time.monotonic() - begun < 10, "the hang, the drip and the delay each last half a minute or more"


def test_no_time_left_asks_nobody(text_model: MakeModel, offline_model: OfflineModel) -> None:
    offline_model.faults.add(Fault("status", status=500))
    with pytest.raises(ProviderTimeout, match="no time left"):
        ask(text_model(seconds=1.0))
    assert offline_model.faults.take("") is not None, "the fault is still there: no request arrived"


def test_one_call_is_one_request(text_model: MakeModel, offline_model: OfflineModel) -> None:
    offline_model.faults.add(Fault("status", status=503))
    with pytest.raises(ProviderError):
        ask(text_model())
    assert offline_model.faults.take("") is None
    assert ask(text_model()).value.title


def test_a_refused_connection_says_where(text_model: MakeModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        ask(text_model(url=url))
    assert url in str(caught.value)


@pytest.fixture
def rude_server() -> Iterator[str]:
    """Accepts one connection and drops it without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def drop() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)

        thread = threading.Thread(target=drop)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(60)


def test_a_dropped_connection_is_a_provider_error(text_model: MakeModel, rude_server: str) -> None:
    with pytest.raises(ProviderError, match="cannot be reached"):
        ask(text_model(url=rude_server))


def test_the_key_is_in_no_message_log_or_traceback(
    text_model: MakeModel, offline_model: OfflineModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = text_model()
    for status in (400, 401, 429, 500):
        offline_model.faults.add(Fault("status", status=status, message=f"the key {KEY} is wrong"))
        with pytest.raises(Exception) as caught:
            ask(model)
        assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in repr(model)
    assert KEY not in caplog.text


def test_the_offline_models_messages_are_whole(text_model: MakeModel, offline_model: OfflineModel) -> None:
    offline_model.faults.add(Fault("status", status=500))
    with pytest.raises(ProviderError, match="The offline model was set to fail"):
        ask(text_model(offline=True))


def test_usage_is_reported_also_for_an_answer_that_cannot_be_used(offline_model: OfflineModel) -> None:
    reported: list[tuple[int, int]] = []
    settings = {
        "api_key": KEY,
        "base_url": offline_model.url,
        "model": "gemini-3.8-flash",
        "offline": False,
        "credential": "x",
    }
    model = TextModel(settings, lambda: 30.0, lambda *tokens: reported.append(tokens))
    offline_model.faults.add(Fault("finish", reason="MAX_TOKENS"))
    with pytest.raises(OutputTruncated):
        ask(model)
    assert len(reported) == 1
    assert min(reported[0]) > 0


def test_a_call_works_inside_a_thread_that_runs_a_loop(text_model: MakeModel) -> None:
    import asyncio

    async def inside() -> Any:
        return ask(text_model())  # as under Playwright's synchronous API

    assert asyncio.run(inside()).value.title


def test_offline_model_requests_ignore_the_environments_proxy(
    text_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(text_model(offline=True)).value.title


class Inner(BaseModel):
    pattern: str = Field(pattern="^[a-z]+$", max_length=3, examples=["abc"])


class Outer(BaseModel):
    """A schema with keywords that Gemini does not read."""

    inner: Inner
    many: list[Inner] = Field(min_length=1, max_length=4)
    maybe: int | None = Field(default=None, ge=1, le=5)


def test_the_schema_goes_out_with_only_what_gemini_reads() -> None:
    schema = wire_schema(Outer)
    assert schema["$defs"]["Inner"]["properties"] == {"pattern": {"title": "Pattern", "type": "string"}}
    assert schema["properties"]["many"] == {
        "items": {"$ref": "#/$defs/Inner"},
        "maxItems": 4,
        "minItems": 1,
        "title": "Many",
        "type": "array",
    }
    assert "default" not in schema["properties"]["maybe"]


def test_an_answer_outside_the_schemas_bounds_is_refused_with_the_field(text_model: MakeModel) -> None:
    with pytest.raises(ProviderError, match=r"inner\.pattern: String should"):
        text_model().generate_json("Queues", system="", schema=Outer)
