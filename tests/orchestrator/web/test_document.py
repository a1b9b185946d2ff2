"""The service against its own description, by properties: schemathesis makes calls from `/openapi.json`, sends them
to a real server over real sockets, and holds every answer against what the description promises.

Each operation is called with its examples, with the borders of each parameter and field and just beyond them, with
drawn values, and in chains along the links, so that calls meet what earlier ones made. No answer may have a status,
type, header or body that is not described, none may be a 5xx; what the description allows must be taken, and what it
forbids must be refused.

The draws are the same in each run. `SCHEMATHESIS_EXAMPLES=200` makes more, and others each time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from orchestrator.runtime import Runtime
from orchestrator.web.app import create_app
from orchestrator.web.http.http_protocol import server_options
from tenants.store.publishing import publications
from tests.orchestrator.web.conftest import ADMIN_KEY, Bench

on_postgresql = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
#: Most of the time goes into the drawing of values.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
MORE = os.environ.get("SCHEMATHESIS_EXAMPLES")


@contextlib.contextmanager
def served(runtime: Runtime) -> Iterator[str]:
    """The application on a real server; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = server_options(runtime.settings)
    server = uvicorn.Server(uvicorn.Config(create_app(runtime), log_level="warning", access_log=False, **options))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
    assert not thread.is_alive()


def furnish(bench: Bench, new_job: Callable[..., Any]) -> None:
    """One thing of each kind for the calls to meet: jobs in several states, drafts, a dead letter, a publication."""
    done = bench.start(new_job(tags=["done"]))
    bench.write(lambda c: publications.create_draft(c, done, title="t", body="b", tags=["a"]))
    bench.complete(done, {"title": "t"})
    bench.fail(bench.start(new_job("other", tags=["failed"])))
    new_job("third", approval=True)
    new_job("fourth", delay=3600, unique_key="k")
    new_job("fifth", callback_url="http://127.0.0.1:9999/hook")


def run(address: str, key: str, folder: Path, *more: str, phases: str, examples: int) -> None:
    """Let schemathesis call the service; a fault ends the test with its report, which says how to repeat it."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "--no-color"]
    command += ["run", f"{address}/openapi.json", "--phases", phases, "--max-examples", MORE or str(examples)]
    command += more
    command += [] if MORE else ["--seed", "1"]
    environment = {
        **os.environ,
        "API_KEY": key,
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SCHEMATHESIS_HOOKS": "schemathesis_checks",
    }
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def address(runtime: Runtime, bench: Bench, new_job: Callable[..., Any]) -> Iterator[str]:
    furnish(bench, new_job)
    with served(runtime) as address:
        yield address


def test_every_example_by_itself(address: str, tmp_path: Path) -> None:
    """The quick part of the next test, which adds the borders of each value and drawn values."""
    run(address, ADMIN_KEY, tmp_path, phases="examples", examples=1)


@pytest.mark.campaign
def test_every_call_by_itself(address: str, tmp_path: Path) -> None:
    run(address, ADMIN_KEY, tmp_path, phases="examples,coverage,fuzzing", examples=2)


@pytest.mark.campaign
@on_postgresql
def test_calls_after_one_another(address: str, tmp_path: Path) -> None:
    run(address, ADMIN_KEY, tmp_path, phases="stateful", examples=40)


@pytest.mark.campaign
@on_postgresql
def test_with_an_accounts_key(address: str, make_key: Callable[..., str], tmp_path: Path) -> None:
    own = ("--exclude-path-regex", "^/v1/admin/")  # all 403 with such a key: test_access.py
    run(address, make_key("acme"), tmp_path, *own, phases="fuzzing", examples=2)
