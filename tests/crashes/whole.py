"""`onelane demo`, which is `onelane up` with work to do, killed with SIGKILL and run again, several times over.

After each kill every process of it must end by itself; the last run must find each text published exactly once for
each account, by its own proof and by the blog's record.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.demo_blog.store import BlogStore
from tests import ROOT
from tests.support.servers import free_port

from .installation import NotInTime, processes_of, until

#: Until the demo has the moment; it starts a dozen processes on a machine that may be busy.
MOMENT_SECONDS = 360.0
#: The guards' silence of 8 s, 2 s of grace, and the rest for a machine that is starved.
CLEAR_SECONDS = 60.0
FINISH_SECONDS = 400.0


@dataclass(frozen=True, slots=True)
class WholeVerdict:
    """What came of it; `report` is the last run's own."""

    kills: dict[str, int]
    posts: int
    lost: int
    doubled: int
    exit_code: int
    left_over: tuple[str, ...]
    #: From each kill to the end of the last process.
    cleared_seconds: tuple[float, ...]
    report: dict[str, Any]

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and bool(self.report.get("ok")) and not (self.lost or self.doubled or self.left_over)


class Demo:
    """The demo in a folder of its own, with ports of its own."""

    #: What is killed at which moment: `one` the process that was started, `all` everything at one stroke.
    plan = (("starting", "one"), ("started", "one"), ("accepted", "all"), ("accepted", "one"))

    def __init__(self, folder: Path, *, texts: int = 2, say: Callable[[str], None] = lambda _: None) -> None:
        self.data_dir = folder / "data"
        self._texts = folder / "texts"
        self._texts.mkdir(parents=True)
        for number in range(texts):
            (self._texts / f"text-{number}.md").write_text(
                f"# Bread number {number}\n\nA starter needs flour, water and five days of patience. "
                f"Bake it for {40 + number} minutes.\n"
            )
        self._number_of_texts = texts
        self._log = folder / "demo.log"
        self._say = say
        ports = {"PORT": free_port(), "DEMO_BLOG_PORT": free_port(), "OFFLINE_MODEL_PORT": free_port()}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ONELANE_", "GEMINI_"))},
            "ONELANE_DATA_DIR": str(self.data_dir),
            "ONELANE_THREADS": "3",
            "PYTHONPATH": str(ROOT),
            **{f"ONELANE_{name}": str(port) for name, port in ports.items()},
        }

    def run(self, kills: int, *, seed: int = 1) -> WholeVerdict:
        """Kill that often, then let a last run come to its end.

        Raises:
            NotInTime: a moment or the end did not come.
        """
        chance = random.Random(seed)
        cleared = []
        done: Counter[str] = Counter()
        for number in range(kills):
            moment, who = self.plan[number] if number < len(self.plan) else chance.choice(self.plan)
            cleared.append(self._run_and_kill(moment, who, more=number))
            done[f"{moment}, {who}"] += 1
        finished = self._start(subprocess.PIPE)
        try:
            output, _ = finished.communicate(timeout=FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            finished.kill()
            finished.communicate()
            raise NotInTime(f"the demo did not end in {FINISH_SECONDS:g} s\n{self._describe()}") from None
        left = processes_of(self.data_dir)
        return self._verdict(dict(done), finished.returncode, output, left, cleared)

    def _run_and_kill(self, moment: str, who: str, *, more: int) -> float:
        before = self._published()
        process = self._start(subprocess.DEVNULL)

        def come() -> bool:
            if process.poll() is not None:
                raise NotInTime(f"the demo ended with {process.returncode} before {moment!r}\n{self._describe()}")
            return self._has_come(moment, before)

        try:
            until(come, f"the demo to be at {moment!r}", MOMENT_SECONDS, self._describe)
        except NotInTime:
            process.kill()
            process.wait(timeout=60)
            raise
        everything = processes_of(self.data_dir) if who == "all" else []
        process.kill()
        killed_at = time.monotonic()
        for each in everything:
            _kill(each)
        process.wait(timeout=60)
        self._say(
            f"killed {'everything' if who == 'all' else 'the demo'} at {moment!r}, {self._published()} posts so far"
        )
        until(
            lambda: not processes_of(self.data_dir),
            "the processes of the killed demo to end",
            CLEAR_SECONDS,
            lambda: str(processes_of(self.data_dir)),
        )
        return time.monotonic() - killed_at

    def _has_come(self, moment: str, published: int) -> bool:
        match moment:
            case "starting":
                return len(processes_of(self.data_dir)) >= 3
            case "started":
                return self._started() > 0
            case _:
                return self._published() > published

    def _started(self) -> int:
        """Ask with as light a hand as can be: read only, so that the service never finds its database busy with us."""
        path = self.data_dir / "onelane.db"
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as connection:
                row = connection.execute("SELECT count(*) FROM publications WHERE status = 'started'").fetchone()
        except sqlite3.OperationalError:
            return 0  # the database or its schema is not there yet
        return int(row[0])

    def _posts(self) -> list[tuple[str, str]]:
        folder = self.data_dir / "demo-blog"
        if not (folder / "demo-blog.sqlite3").exists():
            return []
        return [(post.username, post.marker) for post in BlogStore(folder).posts(limit=1_000_000)]

    def _published(self) -> int:
        return len(self._posts())

    def _start(self, output: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "orchestrator.cli", "demo", str(self._texts), "--exit", "--json"]
        with self._log.open("a") as log:
            return subprocess.Popen(
                command, env=self._environment, cwd=self._texts, stdout=output, stderr=log, text=True
            )

    def _verdict(
        self,
        kills: dict[str, int],
        code: int,
        output: str,
        left: list[psutil.Process],
        cleared: list[float],
    ) -> WholeVerdict:
        report = json.loads(output) if output.strip() else {}
        by_account = Counter(username for username, _ in self._posts())
        expected = self._number_of_texts
        accounts = {post["account"] for post in report.get("posts", ())}
        lost = len(accounts) * expected - sum(min(count, expected) for count in by_account.values())
        return WholeVerdict(
            kills=kills,
            posts=sum(by_account.values()),
            lost=lost,
            doubled=sum(max(0, count - expected) for count in by_account.values()),
            exit_code=code,
            left_over=tuple(map(str, left)),
            cleared_seconds=tuple(cleared),
            report=report,
        )

    def _describe(self) -> str:
        logs = [self._log, self.data_dir / "onelane.log"]
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in logs if path.exists())


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
