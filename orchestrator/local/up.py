"""`onelane up`: all of onelane on one machine. This module has the processes and the order of their start.

    up ── Valkey (unless a Redis URL is set)
       ── api             `onelane serve`: HTTP API and loops
       ── worker-1 … n    `onelane work`
       ── blog            the demo blog
       ── model           the offline model (unless a Gemini key is set)

The data directory has what a restart needs: keys, ports, database, Valkey's append-only file. The supervisor restarts
processes that died.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2
import psutil
from pydantic import SecretStr

from tenants.queues import EmbeddedValkey, QueueError

from ..client import Onelane, OnelaneClientError
from ..exit_codes import WRONG_SETTINGS
from ..settings import PREFIX, Settings
from .data_folder import DataFolder
from .ports import choose_port, reachable_host
from .schema import bring_up_to_date, is_surely_up_to_date
from .supervisor import ChildSpec, Supervisor

#: How long the start of all parts may take: on a busy machine, imports have taken two minutes. A part that dies is
#: noticed earlier.
START_SECONDS = 300.0
#: After so many deaths before its first answer, a part is given up.
MAX_EARLY_DEATHS = 3
#: How long running steps may continue at a stop, unless the settings say otherwise: a person waits for it.
GRACE_SECONDS = 5.0

#: How often Valkey's process is checked, and the pause after a failed start.
_VALKEY_CHECK_SECONDS = 0.5
_VALKEY_PAUSE_SECONDS = 5.0

_ONELANE = "orchestrator.cli"
_DEFAULTS = {"api": 8700, "demo_blog": 8701, "offline_model": 8702}


class StartFailed(Exception):
    """A part did not start; the message has its last lines."""


class WrongSettings(StartFailed):
    """A part refuses the settings, so a retry cannot help."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of the parts."""

    api: str
    demo_blog: str
    offline_model: str | None


class Up:
    """All running parts; leave the `with` to stop them.

    Raises:
        FolderBusy: another `up` owns the data directory.
        PortBusy: a port that the settings ask for is taken.
        StartFailed: a part did not start (WrongSettings: it cannot with these settings).
        FolderUnusable, Unavailable, QueueError: data directory, database or Redis cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        say: Callable[[str], None],
        on_line: Callable[[str, str], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set up the parts; `with` starts them.

        Args:
            settings: the given settings; missing ones are made.
            say: called with remarks for a person.
            on_line: called with each part's name and log line, from several threads.
            cancelled: called during the start; True ends it with KeyboardInterrupt.
        """
        self.folder = DataFolder(settings.data_dir)
        self._given = settings
        self._say = say
        self._on_line = on_line
        self._cancelled = cancelled
        self._supervisor = Supervisor(on_line)
        self._stack = contextlib.ExitStack()
        self._valkey: EmbeddedValkey | None = None
        self._stopping = threading.Event()
        #: The settings of the parts: the given ones, and the made ones.
        self.settings = settings

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def addresses(self) -> Addresses:
        host = reachable_host(self.settings.host)
        return Addresses(
            api=f"http://{host}:{self.settings.port}",
            demo_blog=f"http://127.0.0.1:{self.settings.demo_blog_port}",
            offline_model=self.settings.offline_model_url if self.settings.gemini_api_key is None else None,
        )

    def client(self) -> Onelane:
        """A client with the admin key."""
        assert self.settings.admin_key is not None, "made before anything started"
        return Onelane(self.addresses.api, self.settings.admin_key.get_secret_value())

    def pids(self) -> dict[str, int]:
        """The running processes, Valkey too."""
        valkey = {"valkey": self._valkey.pid} if self._valkey is not None and self._valkey.pid else {}
        return {**valkey, **self._supervisor.pids()}

    def kill(self) -> None:
        """Kill every part at once."""
        self._supervisor.kill()

    def _start(self) -> None:
        self.folder.create()
        self._stack.enter_context(self.folder.claimed())
        ports = self._choose_ports()
        self.folder.keep_ports(ports)
        redis_url = self._given.redis_url
        if redis_url is None:
            redis_url = self._start_valkey()
        else:
            _check_redis(redis_url)
        self.settings = self._complete(ports, redis_url)
        # From here on the children stop before Valkey does.
        self._stack.callback(self._supervisor.stop)
        for spec in self._children():
            self._supervisor.start(spec)
        # The children do their imports meanwhile, which are most of their start.
        self._migrate()
        self._supervisor.let_begin()
        self._wait_until_it_answers()

    def _choose_ports(self) -> dict[str, int]:
        """The ports that are set; else those of the last start; else the default or the next free one."""
        given, last, taken = self._given, self.folder.ports(), set[int]()
        asked = given.model_fields_set
        chosen = {}
        for name, what, field in (
            ("api", "the HTTP API", "port"),
            ("demo_blog", "the demo blog", "demo_blog_port"),
            ("offline_model", "the offline model", "offline_model_port"),
        ):
            chosen[name] = choose_port(
                what,
                given.host if name == "api" else "127.0.0.1",
                default=_DEFAULTS[name],
                asked=getattr(given, field) if field in asked else None,
                last=last.get(name),
                taken=taken,
                chosen_by="--port or ONELANE_PORT" if field == "port" else f"ONELANE_{field.upper()}",
            )
            usual = last.get(name, _DEFAULTS[name])
            if field not in asked and chosen[name] != usual:
                self._say(f"port {usual} is taken by another program; {what} uses {chosen[name]}")
        return chosen

    def _start_valkey(self) -> str:
        self._valkey = EmbeddedValkey(self.folder.path / "valkey")
        url = self._valkey.start()
        self._stack.callback(self._valkey.stop)
        watchdog = threading.Thread(target=self._watch_valkey, args=(self._valkey,), name="watch-valkey")
        watchdog.start()
        self._stack.callback(watchdog.join)
        self._stack.callback(self._stopping.set)
        return url

    def _watch_valkey(self, valkey: EmbeddedValkey) -> None:
        """Restart Valkey when it has died; its append-only file and SQL have all data."""
        process = _process(valkey.pid)
        while not self._stopping.wait(_VALKEY_CHECK_SECONDS):
            if process is not None and process.is_running():
                continue
            self._on_line("valkey", "ended unexpectedly; starting it again")
            try:
                valkey.stop()
                valkey.start()
            except QueueError as error:
                self._on_line("valkey", f"does not start: {error}")
                self._stopping.wait(_VALKEY_PAUSE_SECONDS)
            process = _process(valkey.pid)

    def _complete(self, ports: dict[str, int], redis_url: str) -> Settings:
        given = self._given
        made: dict[str, Any] = {
            "port": ports["api"],
            "demo_blog_port": ports["demo_blog"],
            "offline_model_port": ports["offline_model"],
            "redis_url": redis_url,
            "admin_key": given.admin_key or SecretStr(self.folder.key("admin")),
            "secret_key": given.secret_key or SecretStr(self.folder.key("secret")),
            # The demo blog is on loopback, which publishers may not reach by default.
            "allowed_hosts": (*given.allowed_hosts, f"127.0.0.1:{ports['demo_blog']}"),
            "chromium": given.find_chromium(),
        }
        if given.gemini_api_key is None and given.offline_model_url is None:
            made["offline_model_url"] = f"http://127.0.0.1:{ports['offline_model']}"
        if "shutdown_grace_seconds" not in given.model_fields_set:
            made["shutdown_grace_seconds"] = GRACE_SECONDS
        return given.model_copy(update=made)

    def _migrate(self) -> None:
        if is_surely_up_to_date(self.settings.database_url):
            return
        applied = bring_up_to_date(self.settings.database_url)
        if applied:
            self._say(f"the database was brought up to date ({len(applied)} migration(s))")

    def _children(self) -> list[ChildSpec]:
        environment, first_port = as_environment(self.settings), self.settings.worker_metrics_port
        grace = self.settings.shutdown_grace_seconds

        def worker(number: int) -> ChildSpec:
            own = environment
            if first_port is not None:
                own = {**environment, "ONELANE_WORKER_METRICS_PORT": str(first_port + number - 1)}
            return ChildSpec(f"worker-{number}", _ONELANE, ["work", "--supervised"], own, grace + 8.0, 0)

        folder = self.folder.path / "demo-blog"
        children = [
            ChildSpec("api", _ONELANE, ["serve", "--supervised"], environment, 8.0, 1),
            self._companion("blog", "demo_blog", self.settings.demo_blog_port, "--data-dir", str(folder)),
        ]
        if self.settings.gemini_api_key is None and self._given.offline_model_url is None:
            children.append(self._companion("model", "offline_model", self.settings.offline_model_port))
        # The workers stop first: their steps still need the demo blog and the model.
        return children + [worker(number) for number in range(1, self.settings.processes + 1)]

    def _companion(self, name: str, package: str, port: int, *more: str) -> ChildSpec:
        """The demo blog or the offline model; neither gets settings, so no secrets."""
        logs = ["--log-level", self.settings.log_level, "--log-format", self.settings.log_format]
        arguments = ["--port", str(port), *logs, *more, "--supervised"]
        return ChildSpec(name, f"orchestrator.{package}", arguments, {}, 5.0, 1)

    def _wait_until_it_answers(self) -> None:
        names = [spec.name for spec in self._children()]
        until = time.monotonic() + START_SECONDS
        with self.client() as client, httpx2.Client(trust_env=False, timeout=5) as http:
            missing = list(names)
            while missing:
                missing = [name for name in missing if not self._answers(name, client, http)]
                for name in missing:
                    refused = self._supervisor.last_status(name) == WRONG_SETTINGS
                    if refused or self._supervisor.deaths(name) >= MAX_EARLY_DEATHS or time.monotonic() > until:
                        lines = "\n  ".join(self._supervisor.last_lines(name))
                        raise (WrongSettings if refused else StartFailed)(
                            f"{name} does not start; its last lines:\n  {lines}"
                        )
                if self._cancelled():
                    raise KeyboardInterrupt
                if missing:
                    time.sleep(0.1)  # the parts do not signal their readiness; bounded by START_SECONDS

    def _answers(self, name: str, client: Onelane, http: httpx2.Client) -> bool:
        try:
            if name == "api":
                return client.ready()["status"] in ("ok", "degraded")
            if name.startswith("worker"):
                pids = {worker["pid"] for worker in client.workers()}
                return self._supervisor.pids().get(name) in pids
            address = self.addresses.demo_blog if name == "blog" else self.addresses.offline_model
            return address is not None and http.get(f"{address}/").status_code < 500
        except (OnelaneClientError, httpx2.TransportError):
            return False


def _check_redis(url: str) -> None:
    """Check Redis once, instead of restarting a worker again and again.

    Raises:
        QueueError: no server answers at the URL, or it is too old.
    """
    from tenants.queues import TenantBroker

    broker = TenantBroker(url=url, middleware=[])
    try:
        broker.check_server()
    finally:
        broker.close()


def _process(pid: int | None) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid is not None else None
    except psutil.NoSuchProcess:
        return None


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables for a child process, which then needs no file."""
    found: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, tuple):
            plain = [each.get_secret_value() if isinstance(each, SecretStr) else each for each in value]
            value = json.dumps(plain)
        found[PREFIX + name.upper()] = str(value)
    return found
