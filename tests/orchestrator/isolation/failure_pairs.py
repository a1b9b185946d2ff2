"""``python -m tests.orchestrator.isolation.failure_pairs [--all]``: single and double failures of real processes.

For each row a worker runs a step that leaves a daemon behind, and one or two of its processes are killed, stopped, or
stopped and continued. The table says when the last process of the step had gone, when the worker itself had (steps
in its threads end with it and not before), and when SQL could have given the step to another worker, all from the
attack on. The last must come last; the worker itself counts only where it is attacked, as else it ends a step only
after its processes.

All rows run side by side, as each mostly waits. The workers are forked before this process has any thread, and held
back by a pipe each until it is their turn to start. Without ``--all`` the child and the control plane are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from orchestrator.isolation.process_tree import ProcessId, end_tree, identify, is_running, send
from tenants.database.models import Attempt, Worker
from tenants.database.transactions import Database
from tenants.errors import OwnershipLost, Unavailable
from tenants.migrations import migrate
from tenants.store import workers
from tenants.store.attempt import OwnedAttempt
from tenants.store.job_store import job_store
from tests.orchestrator.isolation.paired_worker import (
    database_url,
    named,
    run_control_plane,
    run_worker,
    take_from_the_dead,
)

PARTS = ("worker", "guard", "zygote", "supervisor")
ALL_PARTS = (*PARTS, "child", "control plane")
MODES = ("killed", "stopped", "continued")

#: The step's limit where its worker is not attacked, which then is what must end it; and where nothing else should.
SHORT_LIMIT_SECONDS, LONG_LIMIT_SECONDS = 3.0, 120.0
#: A worker is continued after SQL has declared it dead; other parts between the guard's silence and the kill of the
#: worker, or between the step's limit and the moment at which the guard takes over.
WORKER_CONTINUES_SECONDS, PART_CONTINUES_SECONDS, SHORT_CONTINUES_SECONDS = 17.0, 9.0, 3.5
STARTING_AT_ONCE = 6
TAKE_SECONDS = 1.0
#: A row that is not decided by then has failed.
ROW_SECONDS = 90.0

Fault = tuple[str, str]


@dataclass
class Row:
    """One combination of failures, and what came of it. Times are seconds of the system's clock."""

    number: int
    faults: tuple[Fault, ...]
    folder: Path
    pid: int = 0
    gate: int = -1
    reported: int = -1
    control_plane: ProcessId | None = None
    control_gate: int = -1
    incoming: bytes = b""
    parts: dict[str, ProcessId] = field(default_factory=dict)
    step_id: str = ""
    living: dict[int, ProcessId] = field(default_factory=dict)
    attacked_at: float = 0.0
    gone_at: float = 0.0
    #: When the worker saw them gone, right before it wrote the outcome. On a busy machine this harness may notice
    #: the last end only after that.
    seen_gone_at: float | None = None
    worker_gone_at: float = 0.0
    given_away_at: float = 0.0
    outcome: str = ""
    database: Database | None = None

    @property
    def name(self) -> str:
        return name_of(self.faults)

    @property
    def hits_worker(self) -> bool:
        return any(part == "worker" for part, _ in self.faults)

    @property
    def decided(self) -> bool:
        """Everything that the row waits for has happened."""
        return bool(self.given_away_at and self.gone_at and (self.worker_gone_at or not self.hits_worker))

    def note_end(self, identity: ProcessId, moment: float) -> None:
        worker = self.parts["worker"]
        if identity == worker:
            self.worker_gone_at = moment
        if not self.gone_at and all(each == worker for each in self.living.values()):
            self.gone_at = moment

    def result(self) -> dict[str, Any]:
        def after(moment: float) -> float | None:
            return round(moment - self.attacked_at, 2) if moment and self.attacked_at else None

        gone_at = min(self.gone_at, self.seen_gone_at or self.gone_at)
        last = max(gone_at, self.worker_gone_at) if self.hits_worker else gone_at
        holds = self.decided and last < self.given_away_at
        return {
            "faults": self.name,
            "gone": after(gone_at),
            "worker_gone": after(self.worker_gone_at) if self.hits_worker else None,
            "given_away": after(self.given_away_at),
            "outcome": self.outcome,
            "living": len(self.living),
            "holds": holds,
        }


def name_of(faults: tuple[Fault, ...]) -> str:
    return ", ".join(f"{part} {mode}" for part, mode in faults)


def combinations(parts: Sequence[str]) -> list[tuple[Fault, ...]]:
    """Every single failure, and every pair of failures of two different parts."""
    single = [((part, mode),) for part in parts for mode in MODES]
    double = [
        ((one, first), (other, second))
        for one, other in itertools.combinations(parts, 2)
        for first in MODES
        for second in MODES
    ]
    return [*single, *double]


class Ends:
    """Notes when processes end, in a thread of its own: the rest of the harness may be busy with a database."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ends")

    def watch(self, row: Row, identity: ProcessId) -> None:
        """Note the end of this process in its row. One that has ended before the failure outlives nothing."""
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return
        row.living[descriptor] = identity
        self._selector.register(descriptor, selectors.EVENT_READ, row)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(0.2):
                row, descriptor = key.data, key.fd
                self._selector.unregister(descriptor)
                os.close(descriptor)
                row.note_end(row.living.pop(descriptor), time.time())

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._selector.close()


class Table:
    """Runs the rows. `run` returns them decided, or as far as they came in their time."""

    def __init__(self, folder: Path, faults: Sequence[tuple[Fault, ...]]) -> None:
        self.rows = [Row(number, each, folder / f"row-{number}") for number, each in enumerate(faults)]
        self._selector = selectors.DefaultSelector()
        self._ends = Ends()
        self._later: list[tuple[float, ProcessId]] = []
        self._waiting = list(self.rows)
        self._started: dict[int, float] = {}
        self._take_at = 0.0
        _migrate(folder)
        for row in self.rows:
            row.folder.mkdir()
            shutil.copy(folder / "onelane.db", row.folder)
            self._fork(row)
        for row in self.rows:
            self._selector.register(row.reported, selectors.EVENT_READ, row)

    def _fork(self, row: Row) -> None:
        gate, row.gate = os.pipe()
        row.reported, reported = os.pipe()
        limit = LONG_LIMIT_SECONDS if row.hits_worker else SHORT_LIMIT_SECONDS
        row.pid = _forked(lambda: run_worker(row.folder, gate, reported, limit))
        os.close(gate)
        os.close(reported)
        if any(part == "control plane" for part, _ in row.faults):
            gate, row.control_gate = os.pipe()
            pid = _forked(lambda: run_control_plane(row.folder, gate))
            os.close(gate)
            row.control_plane = identify(pid)

    def run(self) -> None:
        self._ends.start()
        while any(not self._is_over(row) for row in self.rows):
            self._start_some()
            for key, _ in self._selector.select(0.1):
                self._read(key.data)
            self._continue_those_due()
            if time.time() >= self._take_at:
                self._take_at = time.time() + TAKE_SECONDS
                for row in self.rows:
                    self._give_away(row)

    def _is_over(self, row: Row) -> bool:
        return row.decided or time.time() - self._started.get(row.number, time.time()) > ROW_SECONDS

    def _start_some(self) -> None:
        started = [row for row in self.rows if row.number in self._started]
        starting = [row for row in started if not row.attacked_at and not self._is_over(row)]
        for row in self._waiting[: max(0, STARTING_AT_ONCE - len(starting))]:
            self._waiting.remove(row)
            self._started[row.number] = time.time()
            os.write(row.gate, b"g")
            if row.control_plane is not None:
                os.write(row.control_gate, b"g")

    def _read(self, row: Row) -> None:
        data = os.read(row.reported, 65536)
        if not data:
            self._selector.unregister(row.reported)
            return
        *lines, row.incoming = (row.incoming + data).split(b"\n")
        for line in lines:
            reported = json.loads(line)
            if reported["event"] == "outcome":
                row.outcome = reported["kind"]
                row.seen_gone_at = reported["seen_gone_at"]
            else:
                self._begin(row, reported)

    def _begin(self, row: Row, reported: dict[str, Any]) -> None:
        row.parts = {part: named(reported[part]) for part in (*PARTS, "child")}
        if row.control_plane is not None:
            row.parts["control plane"] = row.control_plane
        row.step_id = reported["step_id"]
        for identity in (*(named(each) for each in reported["step"]), row.parts["worker"]):
            self._ends.watch(row, identity)
        row.database = Database(database_url(row.folder))
        self._attack(row)

    def _attack(self, row: Row) -> None:
        """Stops come first: a stopped part cannot replace the one that is killed beside it."""
        row.attacked_at = time.time()
        for part, mode in sorted(row.faults, key=lambda fault: fault[1] == "killed"):
            send(row.parts[part], signal.SIGKILL if mode == "killed" else signal.SIGSTOP)
            if mode == "continued":
                seconds = SHORT_CONTINUES_SECONDS if not row.hits_worker else PART_CONTINUES_SECONDS
                seconds = WORKER_CONTINUES_SECONDS if part == "worker" else seconds
                self._later.append((time.time() + seconds, row.parts[part]))

    def _continue_those_due(self) -> None:
        for moment, identity in list(self._later):
            if time.time() >= moment:
                self._later.remove((moment, identity))
                send(identity, signal.SIGCONT)

    def _give_away(self, row: Row) -> None:
        """Do what a control plane and a second worker do; note the earliest moment at which SQL let them."""
        database = row.database
        if database is None or row.given_away_at:
            return
        if not row.outcome and time.time() - row.attacked_at < workers.DEAD_SECONDS - workers.RENEWAL_SECONDS - 1:
            return
        with contextlib.suppress(OwnershipLost, Unavailable):  # the row's control plane was faster, or holds the turn
            take_from_the_dead(database)
            started = job_store(database).start(row.step_id, worker_id="another", slot=0)
            if isinstance(started, OwnedAttempt):
                row.given_away_at = _earliest(database, row.step_id)
                database.close()
                row.database = None

    def close(self) -> None:
        """End whatever is left of the rows, and everything below it."""
        for row in self.rows:
            os.close(row.gate)
            for identity in (identify(row.pid), row.control_plane, *row.parts.values(), *list(row.living.values())):
                if identity is not None and is_running(identity):
                    end_tree(identity)
            if row.database is not None:
                row.database.close()
        self._ends.close()
        self._selector.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _earliest(database: Database, step_id: str) -> float:
    """When the step could be given away: as soon as its end was written, or its worker counted as dead."""
    attempts, table = Attempt.__table__, Worker.__table__
    with database.engine.connect() as connection:
        first = connection.execute(
            attempts.select().where(attempts.c.step_id == step_id).order_by(attempts.c.run_token)
        ).mappings()
        ended = next(iter(first))["finished_at"]
        heartbeat = connection.execute(table.select().where(table.c.id == "attacked")).mappings().one()["heartbeat_at"]
    moment = min(ended, heartbeat + timedelta(seconds=workers.DEAD_SECONDS))
    return float(moment.timestamp())


def _migrate(folder: Path) -> None:
    """In a process of its own: a database makes threads, and this process is to fork."""

    def make_schema() -> None:
        database = Database(database_url(folder))
        migrate(database)
        database.close()

    os.waitpid(_forked(make_schema), 0)


def _forked(run: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        run()
        status = 0
    finally:
        os._exit(status)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def as_text(results: Sequence[dict[str, Any]]) -> str:
    """The table, a row a line; `-` for what did not happen, or does not count."""
    heads = ("failures", "step gone", "worker gone", "given away", "held")
    lines = ["{:<46} {:>11} {:>12} {:>11}  {}".format(*heads)]
    for each in results:
        gone, worker, given = (_seconds(each[name]) for name in ("gone", "worker_gone", "given_away"))
        held = "yes" if each["holds"] else "NO"
        lines.append(f"{each['faults']:<46} {gone:>11} {worker:>12} {given:>11}  {held}")
    return "\n".join(lines)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="onelane-pairs-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.orchestrator.isolation.failure_pairs", description=__doc__)
    parser.add_argument("--all", action="store_true", help="the child and the control plane too")
    parser.add_argument("--single", action="store_true", help="single failures alone")
    parser.add_argument("--only", default="", help="rows whose name contains this, such as 'guard killed'")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    given = parser.parse_args()
    faults = combinations(ALL_PARTS if given.all else PARTS)
    faults = [each for each in faults if len(each) == 1 or not given.single]
    with _folder() as folder:
        table = Table(folder, [each for each in faults if given.only in name_of(each)])
        try:
            table.run()
        finally:
            table.close()
    results = [row.result() for row in table.rows]
    print(json.dumps(results) if given.json else as_text(results), flush=True)
    return 0 if all(each["holds"] for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
