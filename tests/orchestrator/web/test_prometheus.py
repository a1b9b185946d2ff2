"""Metrics as a real Prometheus takes them, and the alerts that we hand out."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator import metrics
from orchestrator.loops.gauges import GaugeLoop
from orchestrator.runtime import Runtime
from tests import ROOT
from tests.orchestrator.web.conftest import Api
from tests.support.servers import free_port

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]


def test_a_real_prometheus_scrapes_it(
    address: tuple[str, int], api: Api, runtime: Runtime, new_job: Any, tmp_path: Path
) -> None:
    new_job("acme")
    new_job("müller")
    GaugeLoop(runtime).run_once()
    host, port = address
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s}}\nrule_files: [{ALERTS}]\n"
        f"scrape_configs: [{{job_name: onelane, static_configs: [{{targets: ['{host}:{port}']}}]}}]\n"
    )
    own = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address={own}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        waiting = first_value(own, 'onelane_lane_messages{lane="generate",state="waiting"}')
        assert waiting == 2
        assert first_value(own, 'up{job="onelane"}') == 1
        assert first_value(own, "onelane_redis_up") == 1
        series = ask(own, "/api/v1/series?match[]={job='onelane'}")
        assert not [each for each in series if "acme" in str(each)], "series must not grow with the accounts"
        groups = ask(own, "/api/v1/rules")["groups"]
        assert [each["health"] for each in groups[0]["rules"] if each["health"] == "err"] == []
    finally:
        server.terminate()
        server.wait(60)


def ask(server: str, path: str) -> Any:
    return httpx2.get(f"http://{server}{path}", trust_env=False).json()["data"]


def first_value(server: str, query: str, seconds: float = 90.0) -> float:
    """The query's value, once there is one."""
    ends_at = time.monotonic() + seconds
    while True:
        try:
            found = httpx2.get(f"http://{server}/api/v1/query", params={"query": query}, trust_env=False).json()
            if found["status"] == "success" and found["data"]["result"]:
                return float(found["data"]["result"][0]["value"][1])
        except (httpx2.HTTPError, ValueError):
            found = None  # it starts
        assert time.monotonic() < ends_at, f"no value for {query}: {found}"
        time.sleep(0.1)


def test_promtool_finds_nothing_to_complain_about(api: Api) -> None:
    text = api.with_key(None).get("/metrics").text
    lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # Ours are held to the rules; the Python library's own series are not ours to name.
    assert [line for line in lint.stderr.splitlines() if line.startswith("onelane")] == []
    rules = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert rules.returncode == 0, rules.stderr


def test_every_alert_is_about_a_metric_that_exists() -> None:
    known = {sample.name for family in metrics.REGISTRY.collect() for sample in family.samples}
    known |= {family.name + "_total" for family in metrics.REGISTRY.collect() if family.type == "counter"}
    known |= {family.name for family in metrics.REGISTRY.collect() if family.type == "gauge"}
    named = set(re.findall(r"onelane_\w+", " ".join(re.findall(r"expr: (.*)", ALERTS.read_text()))))
    assert named
    assert named <= known
