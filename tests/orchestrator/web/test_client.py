"""The Python client: what it repeats and what it never does, what it raises, that its types are what is served."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator import client
from orchestrator.client import (
    ApiError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotReachable,
    Onelane,
    ServiceFailed,
    TooMany,
    Unauthenticated,
    connection,
)
from orchestrator.web.app import ROUTES
from orchestrator.web.typed_dicts import write
from orchestrator.worker.step_journal import StepJournal
from tenants.store.attempt import OwnedAttempt
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, Bench, route_of

Requests = list[httpx2.Request]


@pytest.fixture
def onelane(address: tuple[str, int]) -> Iterator[Onelane]:
    """A client of a real server."""
    with Onelane("http://{}:{}".format(*address), ADMIN_KEY) as made:
        yield made


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAUSE_SECONDS", 0.001)


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: httpx2.Response | Exception) -> tuple[Onelane, Requests]:
    """A client whose server gives these answers, and the requests that it got."""
    made, requests, left = Onelane("http://127.0.0.1:1", "key"), Requests(), list(answers)

    def send(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(made, "_http", httpx2.Client(base_url=made.base_url, transport=httpx2.MockTransport(send)))
    return made, requests


def refusal(status: int, code: str, **headers: str) -> httpx2.Response:
    body = {"type": "x", "title": "x", "status": status, "detail": "no", "code": code}
    return httpx2.Response(status, json=body, headers={name.replace("_", "-"): each for name, each in headers.items()})


FINE = httpx2.Response(200, json={"id": "1", "items": []})


def test_a_get_is_repeated_when_nobody_answers_or_a_part_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (httpx2.ConnectError("refused"), refusal(503, "unavailable", retry_after="0"), FINE)
    onelane, requests = scripted(monkeypatch, *answers)
    assert onelane.jobs.get("1")["id"] == "1"
    assert len(requests) == 3


def test_a_post_that_creates_is_repeated_with_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (httpx2.ReadTimeout("late"), refusal(409, "idempotency_in_progress"), FINE)
    onelane, requests = scripted(monkeypatch, *answers)
    onelane.jobs.create("acme", "blog", {})
    assert len({request.headers["idempotency-key"] for request in requests}) == 1

    onelane, requests = scripted(monkeypatch, FINE, FINE)
    onelane.jobs.create("acme", "blog", {})
    onelane.jobs.create("acme", "blog", {}, idempotency_key="mine")
    assert len(requests[0].headers["idempotency-key"]) > 30, "two calls are two jobs"
    assert requests[1].headers["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    "act",
    [
        lambda each: each.jobs.cancel("1"),
        lambda each: each.drafts.change("1", 1, title="x"),
        lambda each: each.accounts.delete_target("acme"),
        lambda each: each.reap(),
    ],
)
def test_what_may_have_happened_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Onelane], Any]
) -> None:
    onelane, requests = scripted(monkeypatch, httpx2.ReadTimeout("late"))
    with pytest.raises(NotReachable):
        act(onelane)
    assert len(requests) == 1


def test_a_refusal_of_the_call_itself_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (refusal(404, "not_found"), refusal(429, "queue_full", retry_after="1"), refusal(500, "internal")):
        onelane, requests = scripted(monkeypatch, answer)
        with pytest.raises(ApiError):
            onelane.jobs.create("acme", "blog", {})
        assert len(requests) == 1


def test_a_long_retry_after_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    onelane, requests = scripted(monkeypatch, refusal(429, "rate_limited", retry_after="3600"))
    with pytest.raises(TooMany) as raised:
        onelane.jobs.get("1")
    assert (raised.value.retry_after, len(requests)) == (3600.0, 1)


def test_what_answers_otherwise_is_not_onelane(monkeypatch: pytest.MonkeyPatch) -> None:
    onelane, _ = scripted(monkeypatch, httpx2.Response(200, text="<html>"))
    with pytest.raises(NotReachable, match="not onelane"):
        onelane.jobs.get("1")


def test_an_export_is_cut_into_lines_at_line_feeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other characters that end a line for Python stand in people's texts."""
    text = "one\u2028two\u2029three\x85four"
    content = f'{{"type": "draft", "data": "{text}"}}\n{{"type": "end"}}\n'.encode()
    answer = httpx2.Response(200, content=iter([content[:25], content[25:60], content[60:]]))
    onelane, _ = scripted(monkeypatch, answer)
    first, end = onelane.accounts.export("acme")
    assert (first["data"], end) == (text, {"type": "end"})


def test_each_kind_of_refusal_has_its_class(address: tuple[str, int], onelane: Onelane) -> None:
    job = onelane.jobs.create("acme", "sample", JOB["input"])  # type: ignore[arg-type]
    onelane.jobs.cancel(job["id"])
    key = onelane.accounts.create_key("acme")["key"]
    with pytest.raises(NotFound):
        onelane.jobs.get("nope")
    with pytest.raises(Conflict) as finished:
        onelane.jobs.cancel(job["id"])
    assert finished.value.code == "job_finished"
    with pytest.raises(InvalidRequest) as wrong:
        onelane.jobs.create("acme", "sample", {"topic": 5})
    assert [place for place, _ in wrong.value.errors] == ["input.topic"]
    assert str(wrong.value).count("input.topic") == 1, "a fault is printed once"
    base = "http://{}:{}".format(*address)
    with Onelane(base, key) as own, pytest.raises(Forbidden):
        own.workers()
    with Onelane(base, "nonsense") as nobody, pytest.raises(Unauthenticated):
        nobody.workers()
    assert issubclass(ServiceFailed, ApiError)


def test_pages_are_gone_through_as_far_as_they_are_wanted(onelane: Onelane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAGE", 2)
    made = onelane.jobs.create_many("a/b:c", [{"pipeline": "sample", "input": JOB["input"]}] * 5)  # type: ignore[typeddict-item]
    ids = [job["id"] for job in made]
    assert [job["id"] for job in onelane.jobs.list(account="a/b:c", limit=None)] == ids[::-1]
    assert [job["id"] for job in onelane.jobs.list(limit=3)] == ids[:1:-1]


def test_it_waits_for_a_jobs_end_and_no_longer(onelane: Onelane, bench: Bench) -> None:
    job = onelane.jobs.create("acme", "sample", JOB["input"])  # type: ignore[arg-type]
    assert onelane.jobs.wait(job["id"], timeout_seconds=0.05)["status"] == "queued"
    bench.fail(bench.start(job))
    assert onelane.jobs.wait(job["id"])["status"] == "failed"


def test_events_come_with_their_data(onelane: Onelane) -> None:
    job = onelane.jobs.create("acme", "sample", JOB["input"])  # type: ignore[arg-type]
    first = next(onelane.accounts.events("acme"))
    assert (first.type, first.data["job"]) == ("snapshot", job["id"])
    onelane.jobs.cancel(job["id"])
    assert [event.type for event in onelane.jobs.events(job["id"])] == ["snapshot", "end"]


def test_a_jobs_log_can_be_had_from_its_start_also_when_it_has_ended(onelane: Onelane, bench: Bench) -> None:
    job = onelane.jobs.create("acme", "sample", JOB["input"])  # type: ignore[arg-type]
    owned = bench.start(job)
    write_lines(bench, owned, "one", "two")
    lines = [{"step": owned.name, "level": "info", "message": text} for text in ("one", "two")]
    # While it runs: what there is, without waiting for more
    assert list(onelane.jobs.logs(job["id"])) == lines
    following = onelane.jobs.logs(job["id"], follow=True)
    assert [next(following), next(following)] == lines
    write_lines(bench, owned, "three")
    lines.append({"step": owned.name, "level": "info", "message": "three"})
    assert next(following) == lines[-1]
    bench.fail(owned)
    assert list(following) == []
    # After its end, with everything else that is kept
    assert list(onelane.jobs.logs(job["id"])) == lines
    events = list(onelane.jobs.events(job["id"], from_start=True))
    assert events[0].type != "snapshot"
    assert [event.data for event in events if event.type == "log"] == lines
    assert events[-1].type == "end"


def write_lines(bench: Bench, owned: OwnedAttempt, *texts: str) -> None:
    journal = StepJournal(owned, bench.runtime.database)
    for text in texts:
        journal.add_line("info", text)
    journal.flush()


#: Served for others than this client's callers.
_NOT_A_METHOD = {"GET /v1/artifacts/{id}", "GET /healthz", "GET /metrics", "GET /openapi.json", "GET /docs"}


def test_every_row_of_the_contract_has_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method is called once, against a server that knows nothing, and what it asked for is noted."""
    onelane = Onelane("http://127.0.0.1:1", "key")
    asked: set[str] = set()

    def refuse(request: httpx2.Request) -> httpx2.Response:
        route = route_of(request.method, request.url.raw_path.decode())
        assert route is not None, f"the client asks for {request.method} {request.url}, which is not served"
        asked.add(f"{route.method} {route.path}")
        return refusal(404, "not_found")

    monkeypatch.setattr(
        onelane, "_http", httpx2.Client(base_url=onelane.base_url, transport=httpx2.MockTransport(refuse))
    )
    resources = [each for each in vars(onelane).values() if isinstance(each, connection.Api)]
    for owner in (onelane, *resources):
        for name in {**vars(type(owner))}:
            if not name.startswith("_"):
                with pytest.raises(NotFound):
                    _call(getattr(owner, name))

    served = {f"{route.method} {route.path}" for route in ROUTES if route.tag} - _NOT_A_METHOD
    assert served - asked == set(), "the client has no method for these"


def _call(method: Callable[..., Any]) -> None:
    samples = {"version": 1, "input": {}, "jobs": [{}], "artifact": {"url": "/v1/jobs/x"}}
    needed = [each for each in inspect.signature(method).parameters.values() if each.default is each.empty]
    made = method(**{each.name: samples.get(each.name, "x") for each in needed if each.kind is not each.VAR_KEYWORD})
    next(made)  # what has not asked yet is an iterator


def test_the_types_are_those_of_the_models() -> None:
    """A field that the service adds is in the client's types, too."""
    folder = Path(inspect.getfile(client.types)).parent
    kept = {each.stem: ast.dump(ast.parse(each.read_text())) for each in folder.glob("*.py")}
    message = "run: python -m orchestrator.web.typed_dicts orchestrator/client/types && ruff format that folder"
    assert kept == {module: ast.dump(ast.parse(text)) for module, text in write().items()}, message


def test_what_is_public_is_there() -> None:
    assert sorted(client.__all__) == sorted(set(client.__all__))
    assert all(hasattr(client, name) for name in client.__all__)
