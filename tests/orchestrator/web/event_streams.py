"""A reader of server-sent events, which signs in with the admin key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from orchestrator.runtime import Runtime
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB

AUTH = {"Authorization": f"Bearer {ADMIN_KEY}"}


class Sse:
    """A reader of server-sent events."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.last_id = ""
        self.heartbeats = 0

    async def next(self) -> tuple[str, Any]:
        name, data = "", ""
        async for line in self._lines:
            if line.startswith(":"):
                self.heartbeats += 1
            elif line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and name:
                return name, json.loads(data)
        raise EOFError("the stream ended")

    async def until(self, name: str) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        while not found or found[-1][0] != name:
            found.append(await self.next())
        return found


@contextlib.asynccontextmanager
async def stream(address: tuple[str, int], path: str, last: str | None = None, **headers: str) -> AsyncIterator[Sse]:
    more = {"Last-Event-ID": last} if last is not None else {}
    async with (
        httpx2.AsyncClient(base_url=f"http://{address[0]}:{address[1]}", timeout=120, trust_env=False) as client,
        client.stream("GET", path, headers={**AUTH, **more, **headers}) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Sse(answer.aiter_lines())


def create(runtime: Runtime, account: str = "acme") -> dict[str, Any]:
    """Make a job without the API."""
    return runtime.jobs.create(account, JobPlan("sample", JOB["input"]))[0]  # type: ignore[arg-type]
