"""How the lanes of a process share its threads."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tenants.queues.budget import PermitRequest, ThreadBudget


class Lanes:
    """Lanes that always have work, and a clock; messages take as long as their lane's do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int, **seconds: float) -> None:
        self.now = 100.0
        monkeypatch.setattr("tenants.queues.budget.time.monotonic", lambda: self.now)
        self.seconds = seconds
        self.budget = ThreadBudget()
        self.budget.open(threads)
        #: When the message of each busy thread ends, and of which lane it is.
        self.running: list[tuple[float, str]] = []
        self.requests: dict[str, PermitRequest] = {}
        self.worked: Counter[str] = Counter()
        self.claims = 0
        self.random = random.Random(1)

    def start(self, lane: str) -> None:
        """The lane has work from now on."""
        number = self.budget.acquire(lane, 100)
        for _ in range(number):
            self._begin(lane)
        self.requests[lane] = self.budget.request(lane, 100, lambda: None)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.running and min(self.running)[0] < end:
            self.now, lane = min(self.running)
            self.running.remove((self.now, lane))
            self.worked[lane] += 1
            if self.budget.may_chain(lane):
                self._begin(lane)
            else:
                self.budget.release(lane)
            for each, request in list(self.requests.items()):
                if request.granted:
                    self.claims += 1
                    for _ in range(self.budget.withdraw(request)):
                        self._begin(each)
                    self.requests[each] = self.budget.request(each, 100, lambda: None)
        self.now = end

    def _begin(self, lane: str) -> None:
        self.running.append((self.now + self.seconds[lane] * self.random.uniform(0.9, 1.1), lane))

    @property
    def threads(self) -> Counter[str]:
        return Counter(lane for _, lane in self.running)


def test_lanes_share_threads_evenly_and_messages_come_with_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(monkeypatch, 8, a=0.01, b=0.01)
    lanes.start("a")
    assert lanes.threads == {"a": 8}
    lanes.start("b")
    lanes.run(1.0)
    assert lanes.threads == {"a": 4, "b": 4}
    before = sum(lanes.worked.values()), lanes.claims
    lanes.run(10.0)
    messages, claims = sum(lanes.worked.values()) - before[0], lanes.claims - before[1]
    assert messages > 7000
    assert claims == 0
    assert lanes.threads == {"a": 4, "b": 4}


def test_an_odd_thread_goes_round(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(monkeypatch, 3, a=0.01, b=0.01)
    lanes.start("a")
    lanes.start("b")
    lanes.run(30.0)
    assert abs(lanes.worked["a"] - lanes.worked["b"]) < 0.1 * lanes.worked["a"]
    assert lanes.claims < sum(lanes.worked.values()) / 20


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_a_lane_of_long_messages_takes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    lanes = Lanes(monkeypatch, threads, short=0.01, long=2.0)
    lanes.start("short")
    lanes.start("long")
    lanes.run(30.0)
    assert lanes.worked["long"] >= 14 * (threads // 2)
    # Of one thread the long ones have nearly all the time: turns are taken by messages.
    assert lanes.worked["short"] >= (10 if threads == 1 else 2000 * (threads // 2))
    if threads > 1:
        assert set(lanes.threads) == {"short", "long"}


def test_no_lane_starves_where_there_are_more_lanes_than_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(monkeypatch, 2, **{f"lane-{number}": 0.05 for number in range(5)})
    for lane in lanes.seconds:
        lanes.start(lane)
    lanes.run(60.0)
    assert min(lanes.worked.values()) > 0.7 * max(lanes.worked.values())
    assert len(lanes.worked) == 5
    assert sum(lanes.threads.values()) == 2
