"""Which ports are taken, and what is said when they are not free."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from orchestrator.local import ports
from orchestrator.local.ports import PortBusy, choose_port, is_free, reachable_host
from tests.support.servers import free_port


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port with a listener; nothing of ours waits long for it here."""
    monkeypatch.setattr(ports, "LINGER_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def choose(*, default: int, asked: int | None = None, last: int | None = None, taken: set[int] | None = None) -> int:
    chosen = taken if taken is not None else set()
    return choose_port(
        "the HTTP API", "127.0.0.1", default=default, asked=asked, last=last, taken=chosen, chosen_by="--port"
    )


def test_a_listener_makes_a_port_busy(busy: int) -> None:
    assert not is_free("127.0.0.1", busy)
    assert is_free("127.0.0.1", free_port())


def test_a_port_that_was_asked_for_is_taken_or_refused(busy: int) -> None:
    free = free_port()
    assert choose(default=busy, asked=free) == free
    with pytest.raises(PortBusy, match=f"port {busy} .* the HTTP API, is taken .*choose one with --port"):
        choose(default=free, asked=busy)


def test_the_port_of_the_last_start_wins_over_the_default() -> None:
    last = free_port()
    assert choose(default=free_port(), last=last) == last


def test_a_busy_default_moves_to_the_next_free_one(busy: int) -> None:
    assert busy < choose(default=busy) < busy + 50


def test_two_parts_never_share_a_port() -> None:
    taken: set[int] = set()
    port = free_port()
    assert choose(default=port, asked=port, taken=taken) == port
    with pytest.raises(PortBusy):
        choose(default=port, asked=port, taken=taken)
    assert taken == {port}


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("blog.lan", "blog.lan")],  # noqa: S104  compared, not bound
)
def test_every_listening_host_has_a_reachable_name(host: str, reachable: str) -> None:
    assert reachable_host(host) == reachable
