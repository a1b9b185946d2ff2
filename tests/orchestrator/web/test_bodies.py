"""Bodies: size, type, strictness."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.web.http import bodies, calls
from orchestrator.web.http.json_parser import MAX_DEPTH, MalformedJson, parse_json
from tests.orchestrator.web.conftest import JOB, Api

JOBS = "/v1/accounts/acme/jobs"


def send(api: Api, content: Any, content_type: str | None = "application/json", path: str = JOBS) -> Any:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return api("POST", path, content=content, headers=headers)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  ",
        b"{",
        b"{'a': 1}",
        b'{"pipeline": "sample",}',
        b"\xff\xfe",
        json.dumps(JOB).encode("utf-16"),
        b'{"pipeline": "a\nb"}',
        b"01",
        b'{"a":1} x',
    ],
)
def test_what_is_not_json_is_400(api: Api, content: bytes) -> None:
    answer = send(api, content)
    if b"\x00" in content and content.decode("utf-8", "ignore").encode() == content:
        assert answer.status_code == 422
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"pipeline":"sample","input":{"topic":NaN}}', ["input", "topic"]),
        ('{"pipeline":"sample","input":{"topic":[1,-Infinity]}}', ["input", "topic", 1]),
        ('{"pipeline":"sample","input":{"topic":1e999}}', ["input", "topic"]),
        ('{"pipeline":"sample","input":{"topic":"\\ud800"}}', ["input", "topic"]),
        ('{"pipeline":"sample","input":{"\\udfff":1}}', ["input", "\\udfff"]),
        ('{"pipeline":"sample","input":{"topic":"a\\u0000b"}}', ["input", "topic"]),
        ('{"pipeline":"sample","input":{"a\\u0000":1}}', ["input", "a\\u0000"]),
        ('{"pipeline":"sample","input":{"topic":"a","topic":"b"}}', ["input", "topic"]),
        ('{"pipeline":"sample","pipeline":"sample"}', ["pipeline"]),
        ('{"pipeline":"sample","priority":' + "9" * 5000 + "}", ["priority"]),
    ],
)
def test_json_that_nobody_may_send_is_422(api: Api, content: str, place: list[Any]) -> None:
    answer = send(api, content)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["loc"] == place


def test_a_surrogate_pair_is_a_character(api: Api) -> None:
    answer = send(api, '{"pipeline":"sample","input":{"topic":"\\ud83d\\udc1d"}}')
    assert (answer.status_code, answer.json()["input"]["topic"]) == (202, "🐝")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_422(api: Api, opening: str) -> None:
    for depth in (MAX_DEPTH + 1, 2000, 200_000):
        closing = "]" if opening == "[" else "}"
        answer = send(api, opening * depth + "1" + closing * depth)
        assert answer.status_code in (413, 422), depth


def test_brackets_in_text_are_no_nesting_and_siblings_are_not_deep() -> None:
    text = "[{" * 200 + '\\"' + "]}" * 10
    values: list[Any] = [text, [text] * 100, [{"a": [text]}] * 100, {text: [[]] * 100}]
    for value in values:
        assert parse_json(json.dumps(value).encode()) == (value, [])


@given(depth=st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2), wide=st.integers(0, 80), text=st.text(alphabet='[]{}"\\a'))
def test_the_depth_is_reported_exactly(depth: int, wide: int, text: str) -> None:
    value: Any = text
    for level in range(depth):
        value = [*([{text: []}] * (wide if level == 5 else 0)), value] if level % 2 else {text: value}
    faults = parse_json(json.dumps(value).encode())[1]
    assert bool(faults) == (depth > MAX_DEPTH)


def test_a_large_body_is_checked_beside_the_event_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one body of 16 MiB was read, nobody else was answered."""
    decode, threads = bodies.decode_json, list[str]()

    def noted(body: bytes, *more: Any) -> Any:
        threads.append(threading.current_thread().name)
        return decode(body, *more)

    monkeypatch.setattr(calls, "decode_json", noted)
    loop_thread = send(api, json.dumps(JOB)).status_code == 202 and threads.pop()
    large = [{**JOB, "input": {"topic": "x" * 1000}}] * 100
    assert send(api, json.dumps({"jobs": large}), path=f"{JOBS}:batch").status_code == 202
    assert threads.pop() != loop_thread
    refused = send(api, json.dumps({"jobs": [*large, {**JOB, "colour": 1}]}), path=f"{JOBS}:batch")
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["jobs", 100, "colour"])
    assert threads.pop() != loop_thread
    assert send(api, json.dumps({"jobs": large})[:-1], path=f"{JOBS}:batch").status_code == 400


def test_the_strict_parser_keeps_what_is_fine() -> None:
    text = '{"a": [1, 2.5, -0.0, null, true, "\\u00e9", {"b": {}}], "": 0}'
    assert parse_json(text.encode()) == (json.loads(text), [])
    with pytest.raises(MalformedJson, match="UTF-8"):
        parse_json(b"\xff")
    assert parse_json(b'"\x00"')[1]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "application/json; charset=latin-1",
        "",
    ],
)
def test_a_body_of_another_type_is_415(api: Api, content_type: str | None) -> None:
    answer = send(api, json.dumps(JOB), content_type)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'Application/JSON;charset="UTF-8"',
        "application/merge-patch+json",
    ],
)
def test_json_by_any_of_its_names_is_taken(api: Api, content_type: str) -> None:
    assert send(api, json.dumps(JOB), content_type).status_code == 202


def test_a_body_that_is_too_large_is_413(api: Api) -> None:
    large = json.dumps({**JOB, "input": {"topic": "x" * 1_048_576}})
    answer = send(api, large, "text/plain")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    batch = send(
        api, json.dumps({"jobs": [JOB] * 3 + [{**JOB, "input": {"topic": "x" * 1_100_000}}]}), path=f"{JOBS}:batch"
    )
    assert batch.status_code == 202, "a batch may be larger"


def test_a_body_without_a_length_is_cut_off_when_it_grows_too_large(api: Api) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    answer = api("POST", JOBS, content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_verb_takes_an_empty_body_and_no_fields(api: Api, new_job: Any) -> None:
    one, two = new_job(), new_job()
    assert api.post(f"/v1/jobs/{one['id']}:cancel", {"colour": 1}).json()["errors"][0]["loc"] == ["colour"]
    assert api.post(f"/v1/jobs/{one['id']}:cancel", {}).status_code == 200
    assert api("POST", f"/v1/jobs/{two['id']}:cancel").status_code == 200


def test_the_checks_come_in_their_order(api: Api, make_key: Any) -> None:
    large = "x" * 1_100_000
    nobody, other = api.with_key(None), api.with_key(make_key("other"))
    assert send(nobody, large, "text/plain").status_code == 401
    assert send(other, large, "text/plain").status_code == 404
    assert send(api, large, "text/plain").status_code == 413
    assert send(api, "{", "text/plain").status_code == 415
    assert send(api, "{", path="/v1/accounts/%2E%2E/jobs").status_code == 400
    assert send(api, "{}", path="/v1/accounts/%2E%2E/jobs").status_code == 422


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x-unknown", "GZIP"])
def test_a_body_with_a_content_coding_is_415(api: Api, coding: str) -> None:
    """It was parsed as if the header were not there."""
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = api("POST", JOBS, content=json.dumps(JOB), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "", "Identity", " , identity"])
def test_a_body_that_says_it_is_not_encoded_is_taken(api: Api, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    assert api("POST", JOBS, content=json.dumps(JOB), headers=headers).status_code == 202
