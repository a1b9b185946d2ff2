"""Steps that hang in a page's script or in a server's answer: all end at their limit, browser and connection too."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.testing import MemoryPort
from orchestrator.isolation.outcome import TimedOut
from orchestrator.isolation.process_tree import ProcessId, descendants, is_running, snapshot
from orchestrator.isolation.sandbox import Sandbox
from orchestrator.isolation.step_run import StepCall
from orchestrator.settings import CHROMIUM_NAMES
from tests.orchestrator.isolation.sandbox_calls import (
    BOUND_SECONDS,
    STEPS,
    Caller,
    Running,
    eventually,
    left_in,
    step_call,
    zombies_below,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

MODULE = "tests.orchestrator.isolation.peer_steps"
CHROMIUM = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
#: What the limit is multiplied with until the step gets to where it hangs: a busy machine may need longer for that.
PATIENCE = (1, 4, 16)

#: An editor by its marks. Once it is loaded, it notifies the server, and no script or call of the page ever runs again.
EDITOR = b"""<!doctype html><title>Editor</title><form data-page=editor data-user=acme></form><script>
onload = () => {
  const reported = new XMLHttpRequest();
  reported.open("GET", "/looping", false);
  reported.send();
  while (true) {}
};
</script>"""


class Peer(ThreadingHTTPServer):
    """A server with a page that loops, an innocent one, and a body that never ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.looping: Callable[[], None] = lambda: None
        self.hung_up = threading.Event()
        self.closing = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


class _Answers(BaseHTTPRequestHandler):
    server: Peer

    def do_GET(self) -> None:
        if self.path == "/trickle":
            self._trickle()
            return
        if self.path == "/looping":
            self.server.looping()
        body = EDITOR if self.path == "/-/editor" else b"<!doctype html><title>Nothing</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        try:
            while not self.server.closing.wait(0.02):
                self.wfile.write(b".")
        except OSError:
            self.server.hung_up.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join(60)


def browser_settings(peer: Peer) -> dict[str, Any]:
    return {"executable": CHROMIUM, "allowed_hosts": [peer.host], "headless": True}


def call(function: str, limit: float, context: dict[str, Any]) -> StepCall:
    key = step_call(function).key
    return StepCall(key, MODULE, function, context, limit, None, f"{STEPS}:bench")


def nothing_is_left(sandbox: Sandbox, scratch: Path, processes: list[ProcessId]) -> None:
    """No process of the step (nor one that nobody knew of and that has its TMPDIR), no zombie, no TMPDIR."""
    assert [each for each in processes if is_running(each)] == []
    assert left_in(scratch) == []
    orphans = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:  # another user's, or gone meanwhile
            continue
        if environment.get("TMPDIR", "").startswith(str(scratch)):
            orphans.append(process)
    assert orphans == []
    zygote = sandbox.zygote_pid
    assert zygote is not None
    eventually(lambda: zombies_below(zygote) == [], "no zombie is left")


def ends_at_its_limit(sandbox: Sandbox, function: str, limit: float, context: dict[str, Any]) -> Caller:
    """Runs the step; gives back its calls, or those of a later run in which it had longer to get somewhere."""
    for patience in PATIENCE:
        began = time.monotonic()
        running = Running(sandbox, call(function, limit * patience, context))
        outcome = running.outcome(120)
        took = time.monotonic() - began
        assert isinstance(outcome, TimedOut)
        assert limit * patience <= took < limit * patience + BOUND_SECONDS
        if running.caller.processes:
            return running.caller
    pytest.fail("the step never got to the place where it hangs")


@pytest.mark.browser
@needs_browser
def test_a_script_that_loops_in_a_page_ends_at_the_limit(sandbox: Sandbox, scratch: Path, peer: Peer) -> None:
    context = {"browser": browser_settings(peer), "url": peer.url}
    caller = ends_at_its_limit(sandbox, "loop_in_a_page", 3.0, context)
    assert len(caller.processes) > 4, "the driver, Chromium and its own children"
    nothing_is_left(sandbox, scratch, caller.processes)


@pytest.mark.browser
@needs_browser
def test_a_publish_step_at_a_looping_page_ends_at_the_limit(sandbox: Sandbox, scratch: Path, peer: Peer) -> None:
    """The real step with its real ledger calls; its own clock says that it has minutes left."""
    port = MemoryPort(
        settings={"browser": browser_settings(peer)},
        target={"publisher": "demo", "base_url": peer.url, "options": {}},
        draft={"id": "d", "title": "A post", "body": "Text.", "tags": [], "status": "pending_publish", "version": 1},
    )
    now = datetime.now(UTC)
    wire = {
        "account": "acme",
        "job": {"id": "job-1", "pipeline": "blog", "created_at": now.isoformat()},
        "input": {},
        "outputs": {},
        "attempt": 1,
        "deadline": (now + timedelta(seconds=600)).isoformat(),
    }
    child: list[int] = []
    tree: list[ProcessId] = []
    sessions: set[int] = set()

    def serve(name: str, payload: dict[str, Any]) -> Any:
        if name == "running":
            child[:] = [payload["pid"]]
            return None
        return port.call(name, payload)

    def note_the_tree() -> None:  # the page waits for its answer, so all of them live
        now = snapshot()
        tree[:] = [each.identity for each in (*(now[pid] for pid in child), *descendants(child, now))]
        for each in tree:
            with contextlib.suppress(ProcessLookupError):  # one of the driver's short-lived ones
                sessions.add(os.getsid(each.pid))

    peer.looping = note_the_tree
    for patience in PATIENCE:
        limit = 3.0 * patience
        began = time.monotonic()
        outcome = sandbox.run(call("publish_at_a_looping_page", limit, {"step": wire}), serve, threading.Event())
        took = time.monotonic() - began
        assert isinstance(outcome, TimedOut)
        assert limit <= took < limit + BOUND_SECONDS
        if tree:
            break
    assert len(tree) > 4, "the page never came to its loop"
    assert len(sessions) > 1, "Chromium is meant to have a session of its own here"
    nothing_is_left(sandbox, scratch, tree)
    assert "publication.started" not in port.verbs(), "it was blocked before anything could leave"


def test_a_body_that_trickles_for_ever_ends_at_the_limit(sandbox: Sandbox, scratch: Path, peer: Peer) -> None:
    caller = ends_at_its_limit(sandbox, "read_a_trickled_body", 0.7, {"url": f"{peer.url}/trickle"})
    nothing_is_left(sandbox, scratch, caller.processes)
    assert peer.hung_up.wait(60), "the connection outlived the step"
