"""Health, metrics, the description; and what happens when a part is down."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event
from starlette.routing import Route as StarletteRoute
from starlette.testclient import TestClient

from orchestrator.control.jobs import Jobs
from orchestrator.loops.gauges import GaugeLoop
from orchestrator.runtime import Runtime
from orchestrator.settings import Settings
from orchestrator.web.app import ROUTES, create_app
from orchestrator.web.http.middleware import SECURITY_HEADERS
from orchestrator.web.http.problems import PROBLEMS
from tenants.queues import ServerRefuses
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, Api, Bench
from tests.support.servers import ValkeyProcess, start_valkey


def test_healthz_and_readyz_need_no_key(api: Api, bench: Bench) -> None:
    nobody = api.with_key(None)
    assert nobody.get("/healthz").json() == {"status": "ok"}
    alone = nobody.get("/readyz").json()
    assert alone == {"status": "degraded", "parts": {"database": "ok", "redis": "ok", "workers": "none"}, "reasons": {}}
    bench.register_worker()
    assert nobody.get("/readyz").json()["status"] == "ok"


def test_metrics_in_prometheus_form(api: Api) -> None:
    answer = api.with_key(None).get("/metrics")
    assert answer.status_code == 200
    assert "# HELP onelane_" in answer.text


def test_metrics_ask_for_their_key_when_it_is_set(settings_of: Callable[..., Settings], migrated_url: str) -> None:
    runtime = Runtime(settings_of(migrated_url, metrics_key=SecretStr("metrics-key-0123456789-abcdef")))
    with TestClient(create_app(runtime)) as client:
        api = Api(client, None)
        assert api.get("/metrics").status_code == 401
        assert api.with_key("wrong").get("/metrics").status_code == 401
        assert api.with_key("metrics-key-0123456789-abcdef").get("/metrics").status_code == 200
        assert api.with_key(ADMIN_KEY).get("/metrics").status_code == 200
    runtime.close()


def test_without_redis_jobs_are_accepted_and_calls_that_need_it_are_503(
    settings_of: Callable[..., Settings], migrated_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "own-valkey"
    folder.mkdir()
    valkey: ValkeyProcess = start_valkey(folder)
    runtime = Runtime(settings_of(migrated_url, redis_url=valkey.url))
    with TestClient(create_app(runtime), raise_server_exceptions=False) as client:
        api = Api(client, ADMIN_KEY)
        assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202
        valkey.stop()
        job = api.post("/v1/accounts/acme/jobs", JOB)
        assert job.status_code == 202, "SQL has it; Redis gets it when it is back"
        assert api.post(f"/v1/jobs/{job.json()['id']}:cancel").status_code == 200
        assert api.get("/v1/accounts/acme").status_code == 200
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["parts"]["redis"] == "down"
        for answer in (api.get("/v1/admin/queues"), api.post("/v1/admin/reap")):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
    runtime.close()


def test_a_redis_that_is_full_or_evicts_is_degraded_and_says_why(
    settings_of: Callable[..., Settings], migrated_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "own-valkey"
    folder.mkdir()
    valkey: ValkeyProcess = start_valkey(folder)
    runtime = Runtime(settings_of(migrated_url, redis_url=valkey.url))
    client: Any = runtime.broker.client

    def metrics() -> str:
        return str(api.get("/metrics").text)

    def shown() -> dict[str, float]:
        GaugeLoop(runtime).run_once()
        found = re.findall(r'^onelane_degraded\{part="redis",reason="(\w+)"\} (\S+)$', metrics(), re.MULTILINE)
        return {reason: float(value) for reason, value in found}

    with TestClient(create_app(runtime), raise_server_exceptions=False) as served:
        api = Api(served, ADMIN_KEY)
        job = api.post("/v1/accounts/acme/jobs", JOB).json()
        assert set(shown().values()) == {0.0}
        client.config_set("maxmemory-policy", "allkeys-lru")
        ready = api.get("/readyz").json()
        assert (ready["status"], ready["parts"]["redis"]) == ("degraded", "degraded")
        assert "allkeys-lru" in ready["reasons"]["redis"]
        assert shown()["evicting"] == 1.0
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["redis"]) == (200, "degraded")
        assert "maxmemory" in ready.json()["reasons"]["redis"]
        with pytest.raises(ServerRefuses):
            GaugeLoop(runtime).run_once()
        assert 'onelane_degraded{part="redis",reason="full"} 1.0' in metrics()
        assert "onelane_redis_up 1.0" in metrics()
        refused = api.post("/v1/admin/reap")
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "maxmemory" in refused.json()["detail"]
        assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202
        assert api.get(f"/v1/jobs/{job['id']}/why").status_code == 200
        client.config_set("maxmemory", 0)
        assert api.get("/readyz").json()["reasons"] == {}
    runtime.close()
    valkey.stop()


def test_without_the_database_nothing_is_accepted(api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenants.errors import Unavailable

    def away(*args: Any) -> Any:
        raise Unavailable("the database failed: OperationalError: connection to server at 10.1.2.3 failed: secret")

    monkeypatch.setattr(runtime.database, "read", away)
    monkeypatch.setattr(runtime.database, "write", away)
    monkeypatch.setattr(runtime.database, "batch", away)

    assert api.get("/readyz").status_code == 503
    assert api.get("/readyz").json()["parts"]["database"] == "down"
    assert api.get("/healthz").status_code == 200
    for answer in (
        api.post("/v1/accounts/acme/jobs", JOB),
        api.get("/v1/jobs"),
        api.with_key("some-account-key").get("/v1/jobs"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "10.1.2.3" not in answer.text
        assert answer.headers["retry-after"]


@pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)
def test_a_database_that_takes_no_writes_is_degraded_and_says_why(api: Api, runtime: Runtime) -> None:
    gauges = GaugeLoop(runtime)
    gauges.run_once()
    metric = 'onelane_degraded{part="database",reason="read_only"}'
    assert metric not in api.get("/metrics").text

    def make_read_only(raw: Any, value: str) -> None:
        raw.execute(f"PRAGMA query_only = {value}")

    runtime.database.engine.dispose()
    event.listen(runtime.database.engine, "checkout", lambda raw, *_: make_read_only(raw, "ON"))
    refused = api.post("/v1/accounts/acme/jobs", JOB)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "read-only, or a replica; nothing was accepted" in refused.json()["detail"]
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["parts"]["database"] == "degraded"
    assert ready.json()["reasons"]["database"].startswith("read_only: the database takes no writes")
    gauges.run_once()
    assert f"{metric} 1.0" in api.get("/metrics").text
    event.listen(runtime.database.engine, "checkout", lambda raw, *_: make_read_only(raw, "OFF"))
    gauges.run_once()
    assert f"{metric} 0.0" in api.get("/metrics").text
    assert api.get("/readyz").json()["parts"]["database"] == "ok"
    assert api.post("/v1/accounts/acme/jobs", JOB).status_code == 202


def test_an_unexpected_error_is_500_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **more: Any) -> Any:
        raise RuntimeError("SELECT secret FROM /srv/onelane")

    monkeypatch.setattr(Jobs, "list", broken)
    with pytest.raises(AssertionError, match="does not promise"):
        api.get("/v1/jobs")  # the checking client refuses a 500 everywhere else
    answer = api._client.get("/v1/jobs", headers=api.headers)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_what_another_route_did_not_expect_is_answered_as_ours(runtime: Runtime) -> None:
    """Of routes beside the table, such as a dashboard's: Starlette answers for them, from outside of the middleware."""

    async def broken(request: Any) -> Any:
        raise RuntimeError("SELECT secret FROM /srv/onelane")

    app = create_app(runtime, extra_routes=[StarletteRoute("/page", broken)])
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/page", headers={"X-Request-Id": "abc-123"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "abc-123"
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value


def test_request_ids_are_taken_over_when_harmless(api: Api) -> None:
    assert api.get("/healthz", headers={"X-Request-Id": "abc-123"}).headers["x-request-id"] == "abc-123"
    for bad in ("a b", "x" * 200, '"><script>'):
        assert api.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad


def test_every_answer_has_the_security_headers(api: Api) -> None:
    for path in ("/v1/jobs", "/v1/nothing", "/healthz", "/docs", "/openapi.json", "/"):
        headers = api.get(path).headers
        assert headers["x-frame-options"] == "DENY", path
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert headers["referrer-policy"] == "no-referrer", path
    assert api.get("/v1/jobs").headers["cache-control"] == "no-store"


def test_the_docs_page_loads_only_from_here(api: Api) -> None:
    page = api.with_key(None).get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert links
    assert all(each.startswith(("/", "#", "data:")) for each in links)
    for name in ("docs.js", "docs.css"):
        assert f"/docs/{name}" in page.text
        assert api.with_key(None).get(f"/docs/{name}").status_code == 200
    assert api.get("/").headers["location"] == "/docs"


# --- the OpenAPI document ------------------------------------------------------------------------------------------


def test_openapi_has_every_route_and_every_code(api: Api) -> None:
    document = api.with_key(None).get("/openapi.json").json()

    assert document["openapi"].startswith("3.1")
    for route in ROUTES:
        if not route.tag:
            continue
        operation = document["paths"][route.path][route.method.lower()]
        documented = {int(status) for status in operation["responses"]}
        assert documented == {*route.answers, *(PROBLEMS[code].status for code in route.error_codes())}, route
        names = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"]
        assert names == list(route.template.parameters)
        assert operation["summary"]
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_in_openapi_leads_somewhere(api: Api) -> None:
    document = api.get("/openapi.json").json()
    found = list(_references(document))
    assert found
    for reference in found:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from _references(each)
    elif isinstance(node, list):
        for each in node:
            yield from _references(each)


def test_the_examples_fit_their_models() -> None:
    for route in ROUTES:
        extra = route.body.model_config.get("json_schema_extra") if route.body is not None else None
        if isinstance(extra, dict):
            examples: Any = extra.get("examples", [])
            for example in examples:
                assert route.body is not None
                route.body.model_validate(example)
