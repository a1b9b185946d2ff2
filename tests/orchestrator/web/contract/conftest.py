"""A world for each test of the contract; its audit is checked after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.runtime import Runtime
from tests.orchestrator.web.conftest import Api, Bench
from tests.orchestrator.web.contract.world import World, check_audit


@pytest.fixture
def world(
    api: Api, bench: Bench, runtime: Runtime, new_job: Callable[..., dict[str, Any]], request: pytest.FixtureRequest
) -> Iterator[World]:
    yield World(api, bench, runtime, new_job, request)
    mark = request.node.get_closest_marker("route")
    assert mark is not None, 'name the route: @route("GET /v1/…")'
    check_audit(api, mark.args[0])
