"""What a request's input may cost: work that grows with its size and no faster, answers that stay small, a budget.

Nothing here is measured in seconds: the tests count operations, or bytes of answers. The figures are printed by
`tests/benchmarks/request_input.py`.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.heap import collector_paused
from orchestrator.web.app import ROUTES
from orchestrator.web.http import calls, cpu_budget, json_parser, validation
from orchestrator.web.http.json_parser import MAX_FAULTS, parse_json
from orchestrator.web.http.problems import Problem, problem_response
from tests.benchmarks.request_input import bodies, body_parser, parsers, queries, query_parser
from tests.orchestrator.web.conftest import JOB, Api

JOBS = "/v1/accounts/acme/jobs"
#: No problem document is larger.
MAX_ANSWER = 24 * 1024


class CountedName(str):
    """A key that counts how often it is compared and hashed: the operations of everything that looks for doubles."""

    __slots__ = ()
    work = 0

    def __eq__(self, other: object) -> bool:
        CountedName.work += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        CountedName.work += 1
        return str.__hash__(self)


def work_for(names: list[str]) -> int:
    pairs: list[tuple[str, Any]] = [(CountedName(name), 1) for name in names]
    CountedName.work = 0
    json_parser._Parse(None).pairs(pairs)
    return CountedName.work


@pytest.mark.parametrize(
    "names",
    [
        lambda n: [f"k{i // 2}" for i in range(n)],
        lambda n: ["k"] * n,
        lambda n: [f"k{i}" for i in range(n - 1)] + ["k0"],
    ],
    ids=["all doubled", "one name", "one double"],
)
def test_looking_for_doubled_keys_is_linear(names: Callable[[int], list[str]]) -> None:
    small, large = work_for(names(1000)), work_for(names(8000))
    assert large <= 8 * small * 1.1
    assert large <= 8000 * 10, "a bounded number of operations for each key"


@given(st.lists(st.sampled_from("abcdefg"), max_size=40))
def test_each_doubled_key_is_named_once(names: list[str]) -> None:
    text = "{" + ",".join(f'"{name}":1' for name in names) + "}"
    faults = parse_json(text.encode())[1]
    assert {fault.loc[0] for fault in faults} == {name for name in names if names.count(name) > 1}
    assert len(faults) == len({fault.loc for fault in faults})


def test_the_walk_visits_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = 0
    real = json_parser._own_faults

    def counted(*arguments: Any) -> Any:
        nonlocal visits
        visits += 1
        return real(*arguments)

    monkeypatch.setattr(json_parser, "_own_faults", counted)
    for size in (100, 1000):
        visits = 0
        value = {"a": [[{"b": [index]}] for index in range(size)], "z": float("nan")}
        assert len(parse_json(json.dumps(value).encode())[1]) == 1
        assert visits == 3 + size * 4, "the root, two values, and four for each element"


@pytest.mark.parametrize("name", dict(bodies(1)))
def test_faults_and_answers_are_capped_whatever_the_body(name: str) -> None:
    """171 KB of doubled keys were answered with 486 KB."""
    body = dict(bodies(200 * 1024))[name]
    for route in ROUTES:
        if route.path in (JOBS.replace("acme", "{account}"), "/v1/accounts/{account}/jobs:batch"):
            answer: Any = body_parser(route)(body)
            if not isinstance(answer, tuple):
                assert len(answer.body) <= MAX_ANSWER, route.path
                assert len(json.loads(answer.body).get("errors", [])) <= MAX_FAULTS


@pytest.mark.parametrize("name", dict(queries(1)))
def test_faults_and_answers_are_capped_whatever_the_query(name: str) -> None:
    query = dict(queries(60 * 1024))[name]
    route = next(route for route in ROUTES if (route.method, route.path) == ("GET", "/v1/jobs"))
    answer: Any = query_parser(route)(query)
    if not isinstance(answer, tuple):
        assert len(answer.body) <= MAX_ANSWER


def test_deep_places_and_long_names_are_shortened() -> None:
    value = json.dumps({"k" * 5000: float("nan")})
    for _ in range(60):
        value = json.dumps({"n" * 300: json.loads(value)})
    faults = parse_json(value.encode())[1]
    assert len(faults[0].loc) == 61
    body = problem_response(Problem("invalid_request", "x" * 100_000, faults * MAX_FAULTS)).body
    assert len(body) <= MAX_ANSWER
    shown = json.loads(bytes(body))["errors"][0]["loc"]
    assert (len(shown), shown[8]) == (17, "…")
    assert max(map(len, shown)) == 100


@pytest.mark.parametrize("unknown", [1, MAX_FAULTS, MAX_FAULTS + 1, 50_000])
def test_unknown_fields_are_named_without_an_error_for_each(
    unknown: int, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    real = validation._message

    def counted(fault: Any) -> str:
        nonlocal made
        made += 1
        return real(fault)

    monkeypatch.setattr(validation, "_message", counted)
    extra = {f"x{index}": 1 for index in range(unknown)}
    for path, body in ((JOBS, {**JOB, **extra}), (f"{JOBS}:batch", {"jobs": [JOB, {**JOB, **extra}]})):
        answer = api.post(path, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert {each["loc"][-1] for each in answer.json()["errors"]} <= extra.keys()
        assert 1 <= len(answer.json()["errors"]) <= MAX_FAULTS
    assert made <= 2 * MAX_FAULTS


def test_a_body_of_too_many_values_is_413(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parser, "MAX_VALUES", 1000)
    many = {**JOB, "input": {"topic": "x", "more": [1] * 1500}}
    text = {**JOB, "input": {"topic": ",:[{" * 2000 + '\\"' * 10}}
    answer = api.post(JOBS, many)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "values" in answer.json()["detail"]
    assert api.post(JOBS, text).status_code == 202, "text is one value, whatever it has in it"


@given(st.text(alphabet='"\\a\n,[', max_size=60))
def test_strings_are_taken_out_of_any_text_in_one_pass(text: str) -> None:
    """From each quotation mark on there is a match: the search never goes over the same bytes again."""
    rest = json_parser._STRING.sub(b"", text.encode())
    assert b'"' not in rest


class Clock:
    """CPU time that passes by a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def thread_time(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({**JOB, "input": {"topic": "x", "more": [{}] * 20_000}}),
        json.dumps({**JOB, "input": {"topic": "x", "more": [1] * 20_000}})[:-2] + ',"n":NaN}}',
        json.dumps({**JOB, "input": {"topic": "x" * 20_000}}),
    ],
    ids=["while it is parsed", "while it is walked over", "after it was parsed"],
)
def test_input_that_costs_more_cpu_than_it_may_is_413(
    body: str, api: Api, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(cpu_budget, "time", clock)
    budget = runtime.settings.max_request_cpu_seconds
    if "xxx" in body:
        monkeypatch.setattr(cpu_budget, "time", Clock())
        budget = 0.5
    monkeypatch.setattr(calls, "CpuBudget", lambda seconds: cpu_budget.CpuBudget(budget))
    answer = api("POST", JOBS, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "CPU" in answer.json()["detail"]


def test_only_small_input_is_parsed_on_the_event_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body of 16 KiB stopped everybody for a second."""
    threads = list[str]()
    real = validation.validate

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(calls, "validate", noted)
    assert api.post(JOBS, JOB).status_code == 202
    loop = threads.pop()
    assert api.post(JOBS, {**JOB, "input": {"topic": "x" * 4096}}).status_code == 202
    assert threads.pop() != loop
    assert api.get(f"/v1/jobs?q={'x' * 4096}").status_code == 422
    assert threads.pop() != loop
    assert api.get("/v1/jobs?" + "&".join(f"a{index}=1" for index in range(51))).status_code == 422
    assert threads == [loop]


def test_the_collector_runs_again_when_the_last_pause_ends() -> None:
    assert gc.isenabled()
    with collector_paused():
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_every_parser_of_a_request_is_in_the_benchmark() -> None:
    def names() -> Iterator[str]:
        for route in ROUTES:
            if route.body_model is not None:
                yield f"body {route.body_model.__name__}"
            yield f"query {route.query.__name__}"

    assert set(names()) <= {name for name, *_ in parsers()}
