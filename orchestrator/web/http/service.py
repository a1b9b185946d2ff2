"""The parts of a control plane that endpoints use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from tenants.secrets.sealing import Sealer, split_keys

from ...control.control_plane_heartbeat import ControlPlaneHeartbeat
from ...control.events import EventHub
from .auth import Authenticator
from .rate_limits import RateLimits
from .signed_urls import AddressSigner

if TYPE_CHECKING:
    from ...runtime import Runtime

T = TypeVar("T")

#: Large requests that are parsed at the same time.
PARSER_THREADS = 2


class Service:
    """The parts of one control plane.

    The event loop reaches the store by `in_thread` alone, and parsers of large input by `in_parser_thread` alone.
    """

    def __init__(self, runtime: Runtime, openapi: Callable[[], bytes] = lambda: b"{}") -> None:
        self.runtime = runtime
        self.settings = runtime.settings
        self.database = runtime.database
        self.jobs = runtime.jobs
        self.sessions = runtime.sessions
        self.pipelines = runtime.pipelines
        self.broker = runtime.broker
        #: Returns the API's description, which is built at its first use.
        self.openapi = openapi
        #: Fewer than the store's connections: more threads would only wait for one.
        self._threads = runtime.settings.threads + 4
        self._limiter: anyio.CapacityLimiter | None = None
        self._parsers: anyio.CapacityLimiter | None = None
        self.events = EventHub(runtime.database, runtime.settings.redis_url)
        self.authenticator = Authenticator(runtime.database, runtime.settings.admin_key)
        self.limits = RateLimits(runtime.settings)
        self.heartbeat = ControlPlaneHeartbeat(runtime.database)

    def lanes(self) -> tuple[str, ...]:
        """Every lane that a loaded pipeline has a step on."""
        return tuple(sorted({step.lane for pipeline in self.pipelines.values() for step in pipeline.steps}))

    @cached_property
    def sealer(self) -> Sealer:
        """Seals secrets in answers that are stored for an idempotency key."""
        secret = self.settings.secret_key
        return Sealer(split_keys(secret.get_secret_value()) if secret is not None else [])

    @cached_property
    def signer(self) -> AddressSigner:
        """Signs addresses that give access to a file without a key."""
        secret = self.settings.secret_key
        assert secret is not None, "a runtime needs one"
        return AddressSigner(split_keys(secret.get_secret_value()))

    def close(self) -> None:
        self.events.close()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run synchronous work on a thread."""
        if self._limiter is None:  # created in the event loop that uses it
            self._limiter = anyio.CapacityLimiter(self._threads)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    async def in_parser_thread(self, work: Callable[[], T]) -> T:
        """Run CPU-bound work on one of few threads: more would only compete with the event loop for the GIL."""
        if self._parsers is None:
            self._parsers = anyio.CapacityLimiter(PARSER_THREADS)
        return await anyio.to_thread.run_sync(work, limiter=self._parsers)
