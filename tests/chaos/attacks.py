"""What is done to the service and when: a schedule from the seed, and the controller that carries it out.

Every kind comes up before any comes up again. What lasts (a stop, a cut, an absence) ends by an entry of its own, so
that several may overlap; `heal` ends all of them.
"""

from __future__ import annotations

import heapq
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg
import redis

from .stage import Stage

#: Kinds that need PostgreSQL.
SQL_KINDS = ("cut sql", "refuse sql", "hold sql", "cut all sql", "kill backends", "cut sql and redis")
KINDS = (
    "kill worker",
    "kill worker",
    "kill control",
    "stop worker shortly",
    "stop worker long",
    "term worker",
    "empty redis",
    "restart redis with data",
    "restart redis without data",
    "redis away",
    "cut redis",
    "refuse redis",
    "hold redis",
    "cut all redis",
)

#: Seconds that the lasting kinds last, from and to. A long stop is longer than the 15 s after which a worker is dead.
_LASTS = {
    "stop worker shortly": (0.5, 6.0),
    "stop worker long": (16.0, 24.0),
    "redis away": (2.0, 8.0),
    "refuse redis": (1.0, 8.0),
    "hold redis": (1.0, 18.0),
    "refuse sql": (1.0, 18.0),
    "hold sql": (1.0, 18.0),
    "cut sql and redis": (3.0, 18.0),
}


@dataclass(frozen=True, slots=True)
class Attack:
    """One entry: `at` seconds after the start, on `target` (a part, or nothing), for `lasts` seconds."""

    at: float
    kind: str
    target: str
    lasts: float = 0.0

    def __str__(self) -> str:
        what = f"{self.at:6.1f} s  {self.kind}"
        return what + (f"  {self.target}" if self.target else "") + (f"  for {self.lasts:.1f} s" if self.lasts else "")


def plan_attacks(
    seed: int, *, seconds: float, every: float, workers: Sequence[str], controls: Sequence[str], sql: bool
) -> list[Attack]:
    """The attacks of a seed: about one every `every` seconds."""
    chance = random.Random(f"attacks {seed}")
    kinds = [*KINDS, *(SQL_KINDS if sql else ())]
    deck: list[str] = []
    planned = []
    at = every
    while at < seconds:
        if not deck:
            deck = chance.sample(kinds, len(kinds))
        kind = deck.pop()
        least, most = _LASTS.get(kind, (0.0, 0.0))
        planned.append(Attack(at, kind, _target(chance, kind, workers, controls), chance.uniform(least, most)))
        at += chance.uniform(0.4, 1.6) * every
    return planned


def _target(chance: random.Random, kind: str, workers: Sequence[str], controls: Sequence[str]) -> str:
    if "control" in kind:
        return chance.choice(controls)
    if "worker" in kind:
        return chance.choice(workers)
    if kind.endswith((" sql", " redis", " sql and redis")) and kind.split()[0] in ("cut", "refuse", "hold"):
        return "" if " all " in kind else chance.choice([*workers, *workers, *controls, "client"])
    return ""


@dataclass
class Controller:
    """Carries a schedule out and keeps the parts running meanwhile."""

    stage: Stage
    plan: Sequence[Attack]
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    #: Monotonic time and pid of every kill of a worker.
    kills: list[tuple[float, int]] = field(default_factory=list)
    #: What was really killed, by what it was: a target that had just died by itself does not count.
    killed: Counter[str] = field(default_factory=Counter)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: int = 0

    def run(self) -> None:
        """From the first attack to the last; then everything is repaired."""
        began = time.monotonic()
        for attack in self.plan:
            self._at(began + attack.at, lambda attack=attack: self._strike(attack))  # type: ignore[misc]
        while self._due:
            moment, _, act = self._due[0]
            now = time.monotonic()
            if now >= moment:
                heapq.heappop(self._due)
                act()
            else:
                self.stage.keep(now)
                threading.Event().wait(min(0.2, moment - now))
        self.repair()

    def repair(self) -> None:
        """End whatever lasts."""
        for route in self.stage.routes:
            self.stage.attack_route(route, "heal")
        self.stage.start_redis()
        for part in self.stage.parts:
            part.not_before = 0.0
            self.stage.signal(part.name, signal.SIGCONT)

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._due, (moment, self._order, act))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._at(time.monotonic() + seconds, act)

    def _strike(self, attack: Attack) -> None:
        self.say(str(attack))
        self.done[attack.kind] += 1
        match attack.kind:
            case "kill worker" | "kill control":
                self._kill(attack.target)
            case "term worker":
                self.stage.signal(attack.target, signal.SIGTERM)
            case "stop worker shortly" | "stop worker long":
                self.stage.signal(attack.target, signal.SIGSTOP)
                self._later(attack.lasts, lambda: self._resume(attack.target))
            case "empty redis":
                self._empty()
            case "restart redis with data" | "restart redis without data":
                self._kill_redis(keep_data=attack.kind.endswith("with data"))
                self.stage.start_redis()
            case "redis away":
                self._kill_redis(keep_data=True)
                self._later(attack.lasts, self.stage.start_redis)
            case "kill backends":
                self._kill_backends()
            case _:
                self._strike_routes(attack)

    def _strike_routes(self, attack: Attack) -> None:
        what = attack.kind.split()[0]
        if " all " in attack.kind:
            server = attack.kind.rpartition(" ")[2]
            for route in self.stage.routes:
                if route.startswith(server):
                    self.stage.attack_route(route, "cut")
            return
        servers = ("sql", "redis") if attack.kind == "cut sql and redis" else (attack.kind.rpartition(" ")[2],)
        if len(servers) == 2:
            what = "refuse"
        for server in servers:
            self._route(f"{server} {attack.target}", what, attack.lasts)

    def _route(self, route: str, what: str, lasts: float) -> None:
        self.stage.attack_route(route, what)
        if lasts:
            self._later(lasts, lambda: self.stage.attack_route(route, "heal"))

    def _kill(self, name: str) -> None:
        at = time.monotonic()
        pid = self.stage.signal(name, signal.SIGKILL)
        if pid is None:
            return
        if name in self.stage.names:
            self.kills.append((at, pid))
        self.killed["workers" if name in self.stage.names else "control planes"] += 1

    def _kill_redis(self, *, keep_data: bool) -> None:
        self.killed["Redis"] += self.stage.valkey is not None
        self.stage.kill_redis(keep_data=keep_data)

    def _resume(self, name: str) -> None:
        if self.stage.part(name).stopped:
            self.stage.signal(name, signal.SIGCONT)

    def _empty(self) -> None:
        client = redis.Redis(port=self.stage.valkey_port, socket_timeout=5)
        try:
            client.flushall()
        except redis.RedisError as error:
            self.say(f"          Redis is away: {error}")
        finally:
            client.close()

    def _kill_backends(self) -> None:
        assert self.stage.postgres is not None
        try:
            with self.stage.postgres.connect() as connection:
                ended = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
                self.killed["database backends"] += ended.rowcount
        except psycopg.Error as error:
            self.say(f"          PostgreSQL: {error}")
