"""Rate limits: of a key, of an address without one, and of an address that guesses keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import limits
import pytest
import uvicorn
from limits.strategies import FixedWindowRateLimiter
from starlette.testclient import TestClient

from orchestrator.runtime import Runtime
from orchestrator.settings import Settings, SettingsError
from orchestrator.web.app import create_app
from orchestrator.web.http import rate_limits
from orchestrator.web.http.http_protocol import proxy_options
from orchestrator.web.http.rate_limits import LocalCounts, network_of
from tenants.store.accounts import keys
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, Api
from tests.support.servers import start_valkey

Serve = Callable[..., Api]


@pytest.fixture
def serve(settings_of: Callable[..., Settings], migrated_url: str) -> Iterator[Serve]:
    """Control planes over one database and one Redis, each with limits of its own."""
    closing: list[Callable[[], Any]] = []

    def start(*, address: str = "192.0.2.1", **limits: Any) -> Api:
        runtime = Runtime(settings_of(migrated_url, **limits))
        client = TestClient(create_app(runtime), raise_server_exceptions=False, client=(address, 4000))
        client.__enter__()
        closing.extend((runtime.close, lambda: client.__exit__(None, None, None)))
        return Api(client, ADMIN_KEY)

    yield start
    for close in reversed(closing):
        close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves this process' clocks on, as the limits see them."""
    import time

    ahead = 0.0
    wall, monotonic = time.time, time.monotonic

    class Clock:
        time = staticmethod(lambda: wall() + ahead)
        monotonic = staticmethod(lambda: monotonic() + ahead)

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(rate_limits, "time", Clock)
    monkeypatch.setattr("limits.strategies.time", Clock)
    return move


def refused(answer: Any) -> bool:
    if answer.status_code != 429:
        return False
    assert answer.json()["code"] == "rate_limited"
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    return True


def test_a_key_that_calls_too_often_is_429_and_others_are_not(serve: Serve, clock: Callable[[float], None]) -> None:
    api = serve(rate_limit_key="5/hour")
    key = api.post("/v1/accounts/acme/keys").json()["key"]
    own = api.with_key(key)

    answers = [own.get("/v1/jobs") for _ in range(6)]
    assert [each.status_code for each in answers] == [200] * 5 + [429]
    assert refused(answers[-1])
    assert refused(own.post("/v1/accounts/acme/jobs", JOB))
    assert "5 per 1 hour" in answers[-1].json()["detail"]
    assert api.get("/v1/jobs").status_code == 200, "each key has its own count"

    clock(2 * 3600)
    assert own.get("/v1/jobs").status_code == 200


def test_calls_that_lead_nowhere_count_too(serve: Serve) -> None:
    """Each of them looks its key up in the database, as any other call."""
    api = serve(rate_limit_key="3/hour")
    assert [api.get("/v1/nothing").status_code, api.delete("/v1/jobs").status_code] == [404, 405]
    assert api.get("/v1/accounts/%FF").status_code == 422
    for method, path in (("GET", "/v1/nothing"), ("DELETE", "/v1/jobs"), ("GET", "/v1/accounts/%FF")):
        assert refused(api(method, path)), path


def test_streams_health_and_metrics_are_not_counted(serve: Serve) -> None:
    api = serve(rate_limit_key="3/hour", rate_limit_address="3/hour")
    job = api.post("/v1/accounts/acme/jobs", JOB).json()
    for _ in range(5):
        assert api("HEAD", f"/v1/jobs/{job['id']}/events").status_code == 200, "all readers come back at once"
        for path in ("/healthz", "/readyz", "/metrics"):
            assert api.with_key(None).get(path).status_code == 200
    assert api.get("/v1/jobs").status_code == 200


def test_an_address_without_a_key_is_429_after_too_many_calls(serve: Serve) -> None:
    nobody = serve(rate_limit_address="3/hour").with_key(None)
    assert [nobody.get("/openapi.json").status_code for _ in range(3)] == [200] * 3
    assert refused(nobody.get("/docs"))
    assert nobody.get("/v1/jobs").status_code == 401, "what asks for a key is judged by it"


def test_an_address_that_guesses_keys_is_refused_unseen(serve: Serve, clock: Callable[[float], None]) -> None:
    api = serve(rate_limit_failures="3/hour")
    good = api.post("/v1/accounts/acme/keys").json()["key"]
    guesser = api.with_key("wrong")

    assert [guesser.get("/v1/jobs").status_code for _ in range(4)] == [401, 401, 401, 429]
    answer = api.with_key(good).get("/v1/jobs")
    assert refused(answer), "a guess that is right is not reported from one that is wrong"
    assert refused(api.get("/v1/jobs"))
    assert api.get("/healthz").status_code == 200

    clock(2 * 3600)
    assert api.with_key(good).get("/v1/jobs").status_code == 200


def test_guesses_at_several_control_planes_are_counted_together(serve: Serve) -> None:
    one, two = (serve(rate_limit_failures="4/hour").with_key("wrong") for _ in range(2))
    elsewhere = serve(rate_limit_failures="4/hour", address="192.0.2.2").with_key("wrong")

    answers = [each.get("/v1/jobs").status_code for _ in range(3) for each in (one, two)]
    assert answers == [401] * 4 + [429] * 2
    assert elsewhere.get("/v1/jobs").status_code == 401, "another address has its own count"


def test_the_metrics_key_cannot_be_guessed_either(serve: Serve) -> None:
    api = serve(rate_limit_failures="2/hour", metrics_key="the-key-of-the-metrics-00001")
    guesser = api.with_key("wrong")
    assert [guesser.get("/metrics").status_code for _ in range(3)] == [401, 401, 429]


def test_a_call_without_a_key_is_no_guess(serve: Serve) -> None:
    api = serve(rate_limit_failures="2/hour")
    assert [api.with_key(None).get("/v1/jobs").status_code for _ in range(5)] == [401] * 5
    assert api.get("/v1/jobs").status_code == 200


def test_without_redis_posts_go_on_and_guesses_are_still_counted(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "own-valkey"
    folder.mkdir()
    valkey = start_valkey(folder)
    api = serve(rate_limit_failures="3/hour", redis_url=valkey.url)
    assert api.with_key("wrong").get("/v1/jobs").status_code == 401
    valkey.stop()
    assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202
    assert [api.with_key("wrong").get("/v1/jobs").status_code for _ in range(4)] == [401, 401, 401, 429]


@pytest.mark.parametrize(
    ("trusted", "comes_from", "seen"),
    [
        ((), "10.0.0.5", "10.0.0.5"),
        ((), "127.0.0.1", "127.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.5", "198.51.100.7"),
        (("10.0.0.0/8",), "192.0.2.9", "192.0.2.9"),
    ],
)
def test_only_a_proxy_that_is_named_is_believed(
    settings_of: Callable[..., Settings], migrated_url: str, trusted: tuple[str, ...], comes_from: str, seen: str
) -> None:
    runtime = Runtime(settings_of(migrated_url))
    config = uvicorn.Config(create_app(runtime), **proxy_options(trusted))
    config.load()
    with TestClient(config.loaded_app, client=(comes_from, 4000)) as client:
        api = Api(client, ADMIN_KEY)
        headers = {"X-Forwarded-For": "203.0.113.1, 198.51.100.7"}
        assert api.post("/v1/accounts/acme/keys", headers=headers).status_code == 201
        assert api.get("/v1/admin/audit").json()["items"][0]["address"] == seen
    runtime.close()


def test_limits_can_be_turned_off(serve: Serve) -> None:
    api = serve(rate_limit_key="off", rate_limit_address="off", rate_limit_failures="off")
    for _ in range(30):
        assert api.with_key("wrong").get("/v1/jobs").status_code == 401
        assert api.with_key(None).get("/openapi.json").status_code == 200
        assert api.get("/v1/jobs").status_code == 200


def test_the_settings_are_checked() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load(rate_limit_key="many", rate_limit_failures="5/week", trusted_proxies="10.0.0.0/8,proxy")
    text = str(error.value)
    assert "RATE_LIMIT_KEY" in text
    assert "RATE_LIMIT_FAILURES" in text
    assert "'proxy'" in text
    assert Settings.load(rate_limit_key="5 per 10 seconds", rate_limit_address="off").rate_limit_address is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_what_is_one_address(address: str | None, network: str) -> None:
    assert network_of(address) == network


def test_counts_are_bounded_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_COUNTS", 100)
    counts = LocalCounts()
    for number in range(1000):
        assert counts.acquire_sliding_window_entry(f"key{number}", 5, 3600)
    assert counts.reset() == 100


def test_no_wrong_key_is_kept_or_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    guess = keys.make_key()
    guesser = serve(rate_limit_failures="2/hour").with_key(guess)
    for _ in range(4):
        answer = guesser.get("/v1/jobs")
        assert guess not in answer.text
    assert "192.0.2.1" in caplog.text
    assert guess not in caplog.text


def test_the_counts_of_a_process_keep_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """They serve every strategy of it, so that another one may be chosen."""
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    counts, limit = LocalCounts(), limits.parse("2/minute")
    limiter = FixedWindowRateLimiter(counts)
    assert [limiter.hit(limit, "a"), limiter.hit(limit, "a"), limiter.hit(limit, "a")] == [True, True, False]
    assert limiter.hit(limit, "b")
    assert limiter.get_window_stats(limit, "a") == (1060.0, 0)
    now[0] += 61
    assert limiter.get_window_stats(limit, "a").remaining == 2
    assert limiter.hit(limit, "a")
    limiter.clear(limit, "a")
    assert limiter.get_window_stats(limit, "a").remaining == 2
