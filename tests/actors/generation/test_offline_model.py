"""The offline model's HTTP side: Gemini's routes and shapes, streams, schemas, bounds, and the fault script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx2
import pytest
from google import genai
from google.genai import types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from orchestrator.offline_model.app import MAX_BODY, create_app, write_answer
from orchestrator.offline_model.article import write_article
from orchestrator.offline_model.faults import Fault, Faults
from orchestrator.offline_model.json_answer import fill
from orchestrator.offline_model.prompt import Request
from orchestrator.offline_model.protocol import MODEL_VERSION, BadRequest, count_tokens, parse_request
from tests.actors.generation.local_model import OfflineModel
from tests.actors.generation.source_texts import source

any_speed = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
PROMPT = "Ovens\n\n" + source("english.txt")


@pytest.fixture
def http(offline_model: OfflineModel) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=offline_model.url, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def sdk(offline_model: OfflineModel) -> Iterator[genai.Client]:
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=offline_model.url, timeout=10_000))
    yield client
    asyncio.run(client.aio.aclose())
    client.close()


def content(text: str = PROMPT) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": text}]}]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("model", ["offline-model", "gemini-3.8-flash", "a:b"])
def test_both_versions_and_any_model_answer_as_the_offline_model(http: httpx2.Client, version: str, model: str) -> None:
    answer = http.post(f"/{version}/models/{model}:generateContent", json={"contents": content()})
    assert answer.status_code == 200
    assert answer.json()["modelVersion"] == MODEL_VERSION
    assert answer.headers["x-onelane-model"] == "offline model"
    candidate = answer.json()["candidates"][0]
    assert candidate["finishReason"] == "STOP"
    assert candidate["content"]["role"] == "model"
    assert "offline model" in candidate["content"]["parts"][0]["text"]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/m:generateContent",
        "/v1/models/m:countTokens",
        "/v1/models/m",
        "/v1/models/:",
        "/v1/tunedModels/m:generateContent",
    ],
)
def test_anything_else_is_not_found_or_not_allowed(http: httpx2.Client, path: str) -> None:
    assert http.post(path, json={"contents": content()}).status_code in (404, 405)


def test_the_model_lists_itself_by_its_name(http: httpx2.Client) -> None:
    assert http.get("/v1beta/models").json()["models"][0]["name"] == "models/offline-model"
    assert "not Gemini" in http.get("/v1beta/models/offline-model").json()["description"]
    assert http.get("/healthz").json()["status"] == "ok"


def test_camel_case_and_snake_case_mean_the_same() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    camel = {
        "contents": content("x"),
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
            "maxOutputTokens": 9,
        },
    }
    snake = {
        "contents": content("x"),
        "system_instruction": {"parts": [{"text": "s"}]},
        "generation_config": {
            "response_mime_type": "application/json",
            "response_json_schema": schema,
            "max_output_tokens": 9,
        },
    }
    assert parse_request(json.dumps(camel).encode()) == parse_request(json.dumps(snake).encode())


def test_tokens_are_counted_and_their_limit_cuts_off(http: httpx2.Client) -> None:
    body = {"contents": content(), "generationConfig": {"maxOutputTokens": 20}}
    answer = http.post("/v1/models/m:generateContent", json=body).json()
    text = answer["candidates"][0]["content"]["parts"][0]["text"]
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert count_tokens(text) == 20
    usage = answer["usageMetadata"]
    assert usage["candidatesTokenCount"] == 20
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + 20


def test_a_stream_carries_the_whole_answer_in_pieces(sdk: genai.Client) -> None:
    whole = sdk.models.generate_content(model="m", contents=PROMPT)
    chunks = list(sdk.models.generate_content_stream(model="m", contents=PROMPT))
    assert len(chunks) > 1
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert [chunk.usage_metadata is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    finish = (chunks[-1].candidates or [types.Candidate()])[0].finish_reason
    assert finish is types.FinishReason.STOP
    assert {chunk.model_version for chunk in chunks} == {MODEL_VERSION}


def test_a_stream_without_sse_is_one_json_array(http: httpx2.Client) -> None:
    answer = http.post("/v1/models/m:streamGenerateContent", json={"contents": content()})
    assert answer.headers["content-type"].startswith("application/json")
    assert len(answer.json()) > 1
    sse = http.post("/v1/models/m:streamGenerateContent?alt=sse", json={"contents": content()})
    assert sse.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(event.removeprefix("data: ")) for event in sse.text.split("\r\n\r\n") if event]
    assert [event["candidates"] for event in events] == [chunk["candidates"] for chunk in answer.json()]


class Section(BaseModel):
    heading: str = Field(max_length=20)
    sentences: list[str] = Field(min_length=2, max_length=2)


class Report(BaseModel):
    title: str
    summary: str
    mood: Literal["calm", "keen"]
    score: int = Field(ge=3)
    final: bool
    sections: list[Section] = Field(min_length=1, max_length=2)
    keywords: list[str]
    note: str | None = None


@pytest.mark.parametrize("dialect", ["response_schema", "response_json_schema"])
def test_any_schema_is_filled_in_both_dialects(sdk: genai.Client, dialect: str) -> None:
    schema = Report if dialect == "response_schema" else Report.model_json_schema()
    config = types.GenerateContentConfig.model_validate({"response_mime_type": "application/json", dialect: schema})
    answer = sdk.models.generate_content(model="m", contents=PROMPT, config=config)
    report = Report.model_validate_json(answer.text or "")
    assert report.title == "Ovens"
    assert report.summary in PROMPT.replace("\n", " ")
    assert report.keywords


SCALARS = st.one_of(
    st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(1, 50)}),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 300)}),
    st.fixed_dictionaries({"type": st.sampled_from(["integer", "NUMBER"]), "minimum": st.integers(-5, 5)}),
    st.just({"type": "BOOLEAN"}),
    st.fixed_dictionaries({"enum": st.lists(st.text(max_size=4), min_size=1)}),
    st.just({"anyOf": [{"type": "null"}, {"type": "string"}]}),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 4)}),
        st.fixed_dictionaries(
            {"type": st.just("OBJECT"), "properties": st.dictionaries(st.sampled_from("title tags x".split()), inner)}
        ),
    ),
    max_leaves=6,
)
ARTICLE = write_article(Request("Ovens", (source("english.txt"),)))


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits one of the schemas above, by plain reading."""
    kind = str(schema.get("type", "")).lower()
    if "enum" in schema:
        return value in schema["enum"]
    if kind == "object":
        properties = schema["properties"]
        return value.keys() == properties.keys() and all(fits(value[name], properties[name]) for name in properties)
    if kind == "array":
        return len(value) >= schema["minItems"] and all(fits(each, schema["items"]) for each in value)
    if kind in ("integer", "number"):
        return isinstance(value, int) and value >= schema["minimum"]
    if kind == "boolean":
        return isinstance(value, bool)
    return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**6)


@any_speed
@given(SCHEMAS)
def test_every_schema_is_kept(schema: dict[str, Any]) -> None:
    value = fill(schema, ARTICLE)
    assert fits(value, schema), value
    assert value == fill(schema, ARTICLE)


def test_a_schema_that_contains_itself_comes_to_an_end() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "title": {"type": "string"}}}
    value = fill({"$defs": {"Node": node}, "$ref": "#/$defs/Node"}, ARTICLE)
    assert value["title"] == "Ovens"
    assert fill({"$ref": "#/$defs/Nowhere"}, ARTICLE) is None
    assert fill({"$defs": {"A": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"}, ARTICLE) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"contents": []}',
        b'{"contents": [1]}',
        b'{"contents": [{"parts": "x"}], "generationConfig": 3}',
        b'{"contents": [{}], "generationConfig": {"maxOutputTokens": 0}}',
        b'{"contents": [{}], "generationConfig": {"responseSchema": []}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=range(12),
)
def test_bodies_out_of_shape_are_refused_in_googles_error_model(http: httpx2.Client, body: bytes) -> None:
    answer = http.post("/v1/models/m:generateContent", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"


@any_speed
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["contents", "parts", "text", "role", "generationConfig", "responseSchema"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_answered_or_refused(body: Any) -> None:
    try:
        asked = parse_request(json.dumps(body).encode())
    except BadRequest:
        return
    assert write_answer(asked).text


def test_a_body_beyond_the_limit_is_refused(http: httpx2.Client) -> None:
    answer = http.post("/v1/models/m:generateContent", content=b" " * (MAX_BODY + 1))
    assert answer.status_code == 413


def test_parts_that_are_no_text_are_passed_over(http: httpx2.Client) -> None:
    parts = [{"inlineData": {"mime_type": "image/png", "data": "AA=="}}, {"text": "Ovens"}]
    answer = http.post("/v1/models/m:generateContent", json={"contents": {"parts": parts}})
    assert answer.status_code == 200


def test_faults_are_scripted_over_http_and_used_up_one_by_one(http: httpx2.Client) -> None:
    script = [{"kind": "status", "status": 503, "times": 2}, {"kind": "quota", "reason": "day", "when": "Ovens"}]
    assert http.post("/control/faults", json=script).json() == {"added": 2}
    statuses = [
        http.post("/v1/models/m:generateContent", json={"contents": content(text)}).status_code
        for text in ("x", "Ovens", "x", "Ovens", "Ovens")
    ]
    assert statuses == [503, 503, 200, 429, 200]
    http.post("/control/faults", json=[{"kind": "hang"}])
    http.delete("/control/faults")
    assert http.post("/v1/models/m:generateContent", json={"contents": content()}).status_code == 200


@pytest.mark.parametrize("script", [[{"kind": "explode"}], [{"kind": "slow", "seconds": 1e9}], [{"x": 1}], [3], 3])
def test_a_fault_out_of_shape_is_refused_whole(http: httpx2.Client, script: Any) -> None:
    assert http.post("/control/faults", json=script).status_code == 400
    assert http.post("/v1/models/m:generateContent", json={"contents": content()}).status_code == 200


def test_without_control_nobody_can_script_faults() -> None:
    transport = httpx2.ASGITransport(create_app())

    async def post() -> int:
        async with httpx2.AsyncClient(transport=transport, base_url="http://offline") as client:
            return (await client.post("/control/faults", json=[{"kind": "hang"}])).status_code

    assert asyncio.run(post()) == 404


def test_a_caller_from_elsewhere_cannot_script_faults() -> None:
    faults = Faults()
    transport = httpx2.ASGITransport(create_app(faults=faults, control=True), client=("192.0.2.7", 1))

    async def post() -> int:
        async with httpx2.AsyncClient(transport=transport, base_url="http://offline") as client:
            return (await client.post("/control/faults", json=[{"kind": "hang"}])).status_code

    assert asyncio.run(post()) == 403
    assert faults.take("") is None


def test_a_fault_knows_its_kinds() -> None:
    with pytest.raises(ValueError, match="blocked_prompt"):
        Fault("blok")  # type: ignore[arg-type]
