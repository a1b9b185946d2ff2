"""Steps that hang in what they speak with: a page whose script loops, a server that trickles.

They take the `Bench` of `misbehaving_steps`.
"""

from __future__ import annotations

import os

import httpx2

from actors.clients.browser import open_browser
from actors.context import StepContext
from actors.pipelines import blog
from tests.orchestrator.isolation.misbehaving_steps import Bench, report_running
from tests.support.ports import NoInput

#: Longer than any limit here: no time-out of the step's own may be what ends it.
PATIENCE_SECONDS = 600.0


def loop_in_a_page(b: Bench) -> None:
    """An `evaluate` whose script never returns; Playwright has no time-out for it."""
    with open_browser(b.context["browser"], lambda: PATIENCE_SECONDS) as browser:
        page = browser.context().new_page()
        browser.goto(page, b.context["url"])
        b.port.call("pids", {"pids": _tree()})
        page.evaluate("() => { while (true) {} }")


def publish_at_a_looping_page(b: Bench) -> None:
    """The built-in publish step, whole, at a target whose editor never releases the browser."""
    report_running(b)
    blog.publish.function(StepContext.from_wire(b.context["step"], NoInput, b.port))


def read_a_trickled_body(b: Bench) -> None:
    """Each byte comes well within the client's time-out, which counts anew with each of them."""
    with httpx2.stream("GET", b.context["url"], timeout=30, trust_env=False) as response:
        for number, _ in enumerate(response.iter_raw()):
            if number == 1:
                report_running(b)


def _tree() -> list[int]:
    from orchestrator.isolation.process_tree import descendants, snapshot

    return [os.getpid(), *(record.identity.pid for record in descendants([os.getpid()], snapshot()))]
