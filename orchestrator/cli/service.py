"""The service commands. Each imports its modules when it runs, because imports are most of a start's time."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import logs
from ..exit_codes import FAILED, OK, WRONG_SETTINGS
from ..local.data_folder import DataFolder
from ..local.ports import reachable_host, require_free
from ..local.supervisor import end_with_parent
from ..settings import Settings, SettingsError
from ..stopping import stop_signals
from ..terminal import console, print_json, say

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from ..local.up import Up

logger = logging.getLogger(__name__)

_SERVE_STOP_SECONDS = 5


def run_up(settings: Settings) -> int:
    """Run everything until SIGINT or SIGTERM; a second signal ends it at once."""
    from ..local.up import Up

    lines = _PrefixedLines()
    say(f"onelane starts; its files are in {settings.data_dir}")
    with stop_signals() as stopping:
        up = Up(settings, say=say, on_line=lines.write, cancelled=lambda: stopping.asked)
        with contextlib.ExitStack() as running:
            stopping.on_second = up.kill
            running.enter_context(up)
            _print_addresses(up)
            stopping.wait()
            say("stopping …")
    say("stopped")
    return OK


def run_serve(settings: Settings, *, supervised: bool = False) -> int:
    """Run the control plane until it is asked to stop.

    Raises:
        SettingsError: a required setting is missing, or the schema is not up to date.
        PortBusy: another program has the port.
    """
    may_begin = _begin(settings, supervised)
    _require(settings, "admin_key", "secret_key", "redis_url")
    require_free("the HTTP API", settings.host, settings.port, chosen_by="--port or ONELANE_PORT")
    from ..availability import when_available
    from ..local.schema import missing_revisions
    from ..loops.service import Loops
    from ..runtime import Runtime
    from ..web.app import create_app
    from ..web.http.http_protocol import server_options

    DataFolder(settings.data_dir).create()
    if may_begin is not None:
        may_begin.wait()
    runtime = Runtime(settings)
    try:
        missing = when_available(lambda: missing_revisions(runtime.database))
        if missing:
            raise SettingsError([f"the database lacks {len(missing)} migration(s): run `onelane migrate` first"])
        loops = Loops(runtime)
        loops.start()
        try:
            _serve(create_app(runtime), settings.host, settings.port, **server_options(settings))
        finally:
            loops.stop()
    finally:
        runtime.close()
    return OK


def run_work(settings: Settings, *, supervised: bool = False) -> int:
    """Run a worker until it is asked to stop.

    Raises:
        SettingsError: a required setting is missing.
    """
    may_begin = _begin(settings, supervised)
    _require(settings, "secret_key", "redis_url")
    from ..worker.process import run_worker

    return run_worker(settings, lanes=settings.lanes, threads=settings.threads, may_begin=may_begin)


def run_migrate(settings: Settings, *, json: bool) -> None:
    """Bring the schema up to date and print the migrations."""
    from ..local.schema import bring_up_to_date

    DataFolder(settings.data_dir).create()
    applied = bring_up_to_date(settings.database_url)
    if json:
        print_json({"applied": applied})
    else:
        console.print(f"applied: {', '.join(applied)}" if applied else "the schema was up to date", markup=False)


def run_new_key(*, json: bool) -> None:
    """Print a fresh key, for `ONELANE_ADMIN_KEY` or `ONELANE_SECRET_KEY`."""
    from tenants.secrets.sealing import new_key

    made = new_key()
    if json:
        print_json({"key": made})
    else:
        console.print(made, markup=False, soft_wrap=True)


def run_doctor(data_dir: Path | None, *, json: bool) -> int:
    """Check the installation; status 0 only if nothing is wrong, 4 if the settings themselves cannot be read."""
    from ..local.doctor import examine, print_findings, settings_are_readable

    findings = examine(data_dir)
    print_findings(findings, json=json)
    if not settings_are_readable(findings):
        return WRONG_SETTINGS
    return OK if all(finding.status != "wrong" for finding in findings) else FAILED


def run_demo(folder: Path, settings: Settings, *, exit_when_done: bool, json: bool) -> int:
    """Run the demo; see `orchestrator.demo`."""
    from ..demo import run

    with stop_signals() as stopping:
        return run(folder, settings, stopping, exit_when_done=exit_when_done, json=json)


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that a user can fix; None for one that needs its traceback."""
    from actors.clients.publishers import PublisherError
    from actors.errors import StepError
    from actors.pipeline import PipelineError
    from tenants.errors import OnelaneError
    from tenants.queues import QueueError

    from ..local.up import StartFailed, WrongSettings

    if isinstance(error, PipelineError | PublisherError | WrongSettings):
        return WRONG_SETTINGS
    return FAILED if isinstance(error, StartFailed | StepError | OnelaneError | QueueError) else None


def _begin(settings: Settings, supervised: bool) -> threading.Event | None:
    """Start the log. Returns an event that is set when a supervised process may use database and Redis."""
    may_begin = end_with_parent() if supervised else None
    logs.configure(settings)
    return may_begin


def _require(settings: Settings, *names: str) -> None:
    missing = settings.missing(*names)
    if missing:
        raise SettingsError(missing)


def _serve(app: Starlette, host: str, port: int, **options: Any) -> None:
    import uvicorn

    from ..heap import freeze_heap

    freeze_heap()
    logger.info("listening on http://%s:%d", reachable_host(host), port)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        **{"proxy_headers": False, **options},
        timeout_graceful_shutdown=_SERVE_STOP_SECONDS,
    )


def _print_addresses(up: Up) -> None:
    addresses = up.addresses
    say(f"  API         {addresses.api}    (documentation: {addresses.api}/docs)")
    say(f"  demo blog   {addresses.demo_blog}")
    if addresses.offline_model is None:
        say(f"  model       Gemini, {up.settings.text_model}")
    else:
        say(f"  model       offline model at {addresses.offline_model} (no GEMINI_API_KEY is set)")
    say(f"  admin key   in {up.folder.path / 'admin.key'}")
    if up.settings.chromium is None:
        say("  browser     none found: posts cannot be published (`onelane doctor` says how to fix it)")
    say("Ctrl-C stops it.")


class _PrefixedLines:
    """Children's lines on standard output, each with its child's name."""

    def __init__(self) -> None:
        self._writing = threading.Lock()
        self._colours = sys.stdout.isatty()

    def write(self, name: str, line: str) -> None:
        head = f"{name:<9}|"
        if self._colours:
            head = f"\x1b[3{1 + sum(map(ord, name)) % 6}m{head}\x1b[0m"
        with self._writing, contextlib.suppress(OSError):  # a closed terminal must not stop the service
            sys.stdout.write(f"{head} {line}\n")
            sys.stdout.flush()
