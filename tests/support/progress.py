"""A pytest plugin: a line each 15 seconds says how many tests are done, how many failed, and which take long.

The line is printed with and without a terminal, and with several test processes. It comes with the end of a test,
so that a single slow test delays it.
"""

from __future__ import annotations

import time

import pytest

#: How often the line is printed, and from when on a running test is named, s.
PERIOD_SECONDS, LONG_SECONDS = 15.0, 10.0


class Progress:
    """Counts the tests that have ended, and remembers when each running one began."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal
        self.total = 0
        self.done = 0
        self.failed = 0
        self.running: dict[str, float] = {}
        self.started = self.printed = time.monotonic()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.total = len(session.items) or self.total

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.total = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed += report.failed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.pop(nodeid, None)
        self.done += 1
        now = time.monotonic()
        if now - self.printed >= PERIOD_SECONDS:
            self.printed = now
            self.terminal.write_line(f"\n{self.line(now)}")

    def line(self, now: float) -> str:
        minutes, seconds = divmod(int(now - self.started), 60)
        failed = f", {self.failed} failed" if self.failed else ""
        long = [f"{test} ({now - since:.0f} s)" for test, since in self.running.items() if now - since > LONG_SECONDS]
        return f"{minutes}:{seconds:02} {self.done} of {self.total} tests{failed}" + "".join(
            f"\n      running: {each}" for each in long
        )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(terminal, pytest.TerminalReporter):
        config.pluginmanager.register(Progress(terminal), "progress")
