"""Limits on the calls of a key and of an address, and on wrong keys from an address.

Invariants
- A valid call costs no round trip. Calls of a key are counted in this process alone: the limit protects the process
  and its database from one caller, and n control planes admit n times as many.
- Keys cannot be guessed: after too many wrong keys, an address is refused before its key is checked. Wrong keys are
  counted in Redis for all control planes. Without Redis each process counts for itself.
- Counts expire, and their number is bounded.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import redis
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import Storage, storage_from_string
from limits.storage.base import SlidingWindowCounterSupport, TimestampedSlidingWindow
from limits.strategies import SlidingWindowCounterRateLimiter

from tenants.queues import node_urls

from ...metrics import REFUSED_CALLS
from .problems import Problem

if TYPE_CHECKING:
    from ...settings import Settings

log = logging.getLogger(__name__)

#: Most counts in memory; the oldest are removed first.
MAX_COUNTS = 50_000
#: How long this process counts alone after Redis failed.
REDIS_PAUSE_SECONDS = 5.0
#: Options of a node's URL that apply to the cluster too: credentials, time-outs and TLS.
_SHARED = re.compile(r"username|password|ssl_\w+|socket_\w+")
_REDIS_OPTIONS: dict[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


class LocalCounts(Storage, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """The counts of this process.

    The library's own storage starts a timer thread at almost every count, which walks all counts. This one removes a
    count when it finds it expired, and the oldest when there are too many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        #: A window's key to its count and when it expires, in the order in which the windows began.
        self._counts: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = time.time()
        with self._lock:
            before, before_left, current, _ = self._window(key, expiry, now)
            if math.floor(before * before_left / expiry + current) + amount > limit:
                return False
            name = self.sliding_window_keys(key, expiry, now)[1]
            if name not in self._counts:
                self._make_room(now)
            self._counts[name] = (current + amount, now + 2 * expiry)
            return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        with self._lock:
            return self._window(key, expiry, time.time())

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        with self._lock:
            for name in self.sliding_window_keys(key, expiry, time.time()):
                self._counts.pop(name, None)

    def _window(self, key: str, expiry: int, now: float) -> tuple[int, float, int, float]:
        """The previous window's count and its remaining weight in seconds; the current one's count and its end."""
        before, current = (self._counts.get(name, (0, 0.0))[0] for name in self.sliding_window_keys(key, expiry, now))
        into = now % expiry
        return before, (expiry - into if before else 0.0), current, 2 * expiry - into

    def _make_room(self, now: float) -> None:
        while self._counts:
            oldest = next(iter(self._counts))
            if self._counts[oldest][1] > now and len(self._counts) < MAX_COUNTS:
                return
            del self._counts[oldest]

    # The library's base class needs these; only its other strategies call them.

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.time()
        with self._lock:
            count, until = self._counts.get(key, (0, 0.0))
            if until <= now:
                self._counts.pop(key, None)
                self._make_room(now)
                count, until = 0, now + expiry
            self._counts[key] = (count + amount, until)
            return count + amount

    def get(self, key: str) -> int:
        with self._lock:
            count, until = self._counts.get(key, (0, 0.0))
            return count if until > time.time() else 0

    def get_expiry(self, key: str) -> float:
        with self._lock:
            return max(self._counts.get(key, (0, 0.0))[1], time.time())

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        with self._lock:
            found = len(self._counts)
            self._counts.clear()
        return found

    def clear(self, key: str) -> None:
        with self._lock:
            self._counts.pop(key, None)


class RateLimits:
    """The limits of one control plane. Each `check_…` is fast and raises the problem that answers the call."""

    def __init__(self, settings: Settings) -> None:
        self._key = _limit(settings.rate_limit_key)
        self._address = _limit(settings.rate_limit_address)
        self._failures = _limit(settings.rate_limit_failures)
        self._local = SlidingWindowCounterRateLimiter(LocalCounts())
        self._redis_url = settings.redis_url
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._shared_from = 0.0
        self._connecting = threading.Lock()
        #: Addresses that are refused before their key is checked, and until when by the monotonic clock.
        self._refused: dict[str, float] = {}

    def check_key(self, key_id: str) -> None:
        """Count a call of a known key.

        Raises:
            Problem: 429, the key has made too many.
        """
        if self._key is not None and not self._local.hit(self._key, "key", key_id):
            raise self._too_many(self._key, "key", key_id, "calls with this key")

    def check_address(self, address: str | None) -> None:
        """Count a call that needs no key.

        Raises:
            Problem: 429, the address made too many.
        """
        if self._address is not None:
            network = network_of(address)
            if not self._local.hit(self._address, "address", network):
                raise self._too_many(self._address, "address", network, "calls without a key from this address")

    def check_guesses(self, address: str | None) -> None:
        """Refuse an address that sent too many wrong keys.

        Raises:
            Problem: 429, it has.
        """
        if not self._refused:
            return
        until = self._refused.get(network_of(address))
        left = 0.0 if until is None else until - time.monotonic()
        if left > 0:
            raise self._guessed_too_often(left)

    def count_guess(self, address: str | None) -> None:
        """Count a wrong key; it calls Redis, so run it on a thread.

        Raises:
            Problem: 429, there were too many.
        """
        if self._failures is None:
            return
        network = network_of(address)
        left = self._count_guess(self._failures, network)
        if left is None:
            return
        now = time.monotonic()
        if len(self._refused) >= MAX_COUNTS:
            self._refused = {name: until for name, until in self._refused.items() if until > now}
        log.warning("%s is refused for %.0f s: it sent more than %s wrong keys", network, left, self._failures)
        self._refused[network] = now + left
        raise self._guessed_too_often(left)

    def _count_guess(self, limit: RateLimitItem, network: str) -> float | None:
        """How long to refuse the address; None if it is not refused."""
        for limiter in (self._shared_counts(), self._local):
            if limiter is None:
                continue
            try:
                return None if limiter.hit(limit, "failures", network) else _seconds_left(limiter, limit, network)
            except StorageError as error:
                log.warning("wrong keys are counted by each control plane for itself, because Redis is down: %s", error)
                self._shared_from = time.monotonic() + REDIS_PAUSE_SECONDS
        return None

    def _shared_counts(self) -> SlidingWindowCounterRateLimiter | None:
        if self._redis_url is None or time.monotonic() < self._shared_from:
            return None
        with self._connecting:
            if self._shared is None:
                try:
                    storage = _storage(self._redis_url)
                    self._shared = SlidingWindowCounterRateLimiter(storage)
                except Exception as error:  # drivers raise various errors for a bad URL or a missing cluster
                    log.warning("wrong keys are counted by each control plane for itself: %s", type(error).__name__)
                    self._shared_from = time.monotonic() + REDIS_PAUSE_SECONDS
            return self._shared

    def _too_many(self, limit: RateLimitItem, kind: str, name: str, what: str) -> Problem:
        REFUSED_CALLS.labels(kind).inc()
        left = _seconds_left(self._local, limit, name, kind)
        return _problem(f"too many {what}, the limit is {limit}", left)

    def _guessed_too_often(self, left: float) -> Problem:
        REFUSED_CALLS.labels("failures").inc()
        return _problem("too many calls with a wrong key from this address", left)


def network_of(address: str | None) -> str:
    """The unit that limits count: an IPv4 address, or the /64 network of an IPv6 address, which one customer gets."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _limit(text: str | None) -> RateLimitItem | None:
    return None if text is None else parse(text)


def _storage(redis_url: str) -> Storage:
    url, options = redis_url.replace("unix://", "redis+unix://"), dict(_REDIS_OPTIONS)
    if "+cluster://" in redis_url:
        # The library reads only the hosts and the credentials of such a URL.
        nodes = [redis.ConnectionPool.from_url(each).connection_kwargs for each in node_urls(redis_url)]
        options = {**{name: value for name, value in nodes[0].items() if _SHARED.fullmatch(name)}, **options}
        options["ssl"] = redis_url.startswith("rediss")
        hosts = [f"{node['host']}:{node.get('port', 6379)}" for node in nodes]
        url = f"redis+cluster://{','.join(hosts)}"
    storage = storage_from_string(url, wrap_exceptions=True, key_prefix="onelane:wrong-keys", **options)
    assert isinstance(storage, Storage), "the URL has no async+ scheme"
    return storage


def _seconds_left(
    limiter: SlidingWindowCounterRateLimiter, limit: RateLimitItem, name: str, kind: str = "failures"
) -> float:
    left = limiter.get_window_stats(limit, kind, name).reset_time - time.time()
    return min(max(1.0, left), float(limit.get_expiry()))


def _problem(what: str, left: float) -> Problem:
    seconds = max(1, math.ceil(left))
    return Problem("rate_limited", f"{what}; wait {seconds} s", headers={"Retry-After": str(seconds)})
