"""What endpoints work with: the runtime's parts, put together once per application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from actors import Pipeline
from tenants.database import Database
from tenants.sealing import Sealer, split_keys
from tenants.sessions import Sessions

from ..control_plane_heartbeat import ControlPlaneHeartbeat
from ..events import EventHub
from ..jobs import Jobs
from ..settings import Settings
from .auth import Authenticator
from .rate_limits import RateLimits
from .signed_urls import AddressSigner

if TYPE_CHECKING:
    from tenants.queues import TenantBroker

    from ..runtime import Runtime

T = TypeVar("T")

#: Large requests that are parsed at a time.
PARSER_THREADS = 2


class Service:
    """The parts of one control plane.

    `in_thread` is the only way from the event loop to the store, `in_parser_thread` the one to parsers of large input.
    """

    def __init__(self, runtime: Runtime, openapi: Callable[[], bytes] = lambda: b"{}") -> None:
        self.runtime = runtime
        #: The API's description, made when it is first asked for.
        self.openapi = openapi
        #: Fewer threads than the store has connections: more would only wait for one.
        self._threads = runtime.settings.threads + 4
        self._limiter: anyio.CapacityLimiter | None = None
        self._parsers: anyio.CapacityLimiter | None = None
        self.events = EventHub(runtime.database, runtime.settings.redis_url)
        self.authenticator = Authenticator(runtime.database, runtime.settings.admin_key)
        self.limits = RateLimits(runtime.settings)
        self.heartbeat = ControlPlaneHeartbeat(runtime.database)

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    @property
    def database(self) -> Database:
        return self.runtime.database

    @property
    def jobs(self) -> Jobs:
        return self.runtime.jobs

    @property
    def sessions(self) -> Sessions:
        return self.runtime.sessions

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        return self.runtime.pipelines

    @property
    def broker(self) -> TenantBroker:
        return self.runtime.broker

    def lanes(self) -> tuple[str, ...]:
        """Every lane that a loaded pipeline has a step on."""
        return tuple(sorted({step.lane for pipeline in self.pipelines.values() for step in pipeline.steps}))

    @cached_property
    def sealer(self) -> Sealer:
        """For secrets in answers that are kept for an idempotency key."""
        secret = self.settings.secret_key
        return Sealer(split_keys(secret.get_secret_value()) if secret is not None else [])

    @cached_property
    def signer(self) -> AddressSigner:
        """For addresses that open a file without a key."""
        secret = self.settings.secret_key
        assert secret is not None, "a runtime is not made without one"
        return AddressSigner(split_keys(secret.get_secret_value()))

    def close(self) -> None:
        self.events.close()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run synchronous work on a thread of its own."""
        if self._limiter is None:  # made in the event loop that it belongs to
            self._limiter = anyio.CapacityLimiter(self._threads)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    async def in_parser_thread(self, work: Callable[[], T]) -> T:
        """Run work that needs the CPU alone. More threads at a time would only compete for the GIL with the loop."""
        if self._parsers is None:
            self._parsers = anyio.CapacityLimiter(PARSER_THREADS)
        return await anyio.to_thread.run_sync(work, limiter=self._parsers)
