"""`ctx.log`: a burst and a steady rate are written, what comes on top is counted."""

from __future__ import annotations

from typing import Any

from actors.context import StepLog


class Port:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        raise AssertionError("a log line waits for no answer")

    def send(self, name: str, payload: dict[str, Any]) -> None:
        self.sent.append((name, payload))


def test_a_burst_is_written_and_a_flood_is_counted() -> None:
    # Given a step whose clock stands still
    moment, port = [100.0], Port()
    log = StepLog(port, lambda: moment[0])
    # When it writes three lines more than a burst
    for _ in range(StepLog.BURST_LINES + 3):
        log.info("x")
    assert [name for name, _ in port.sent] == ["log"] * StepLog.BURST_LINES
    # Then a line that is written later says before itself how many are missing
    moment[0] += 2.5 / StepLog.LINES_PER_SECOND
    log.warning("y" * 5_000)
    log.info("z")
    log.info("one too many")
    assert port.sent[StepLog.BURST_LINES :] == [
        ("log.left_out", {"count": 3}),
        ("log", {"level": "warning", "message": "y" * 4_000}),
        ("log", {"level": "info", "message": "z"}),
    ]
    # And the end says it of the last ones, once
    log.close()
    log.close()
    assert port.sent[StepLog.BURST_LINES + 3 :] == [("log.left_out", {"count": 1})]
