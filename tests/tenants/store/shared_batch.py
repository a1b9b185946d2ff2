"""Makes calls of several threads share a batch of a `Database`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tenants.database.postgres_statements import PreparedStatements
from tenants.database.transactions import Database

PATIENCE_SECONDS = 60.0


class _Released(Exception):
    """Ends the batch that the others have waited for, without a commit."""


class _Block:
    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()


def _block(_: Any, items: Sequence[_Block]) -> list[None]:
    for item in items:
        item.begun.set()
        assert item.released.wait(PATIENCE_SECONDS)
    raise _Released


def share(database: Database, threads: ThreadPoolExecutor, *calls: Callable[[], Any]) -> list[Any]:
    """What each call returns or raises: all are queued, in this order, while another batch runs, and then go together.

    Each call must begin with a call of `Database.batch`.
    """
    block = _Block()
    blocked = threads.submit(database.batch, _block, block)
    assert block.begun.wait(PATIENCE_SECONDS)
    started: list[Future[Any]] = []
    for number, call in enumerate(calls, start=1):
        started.append(threads.submit(call))
        until = time.monotonic() + PATIENCE_SECONDS
        while database.queued_items < number:
            assert time.monotonic() < until, "it was not queued"
            time.sleep(0.002)
    block.released.set()
    assert isinstance(blocked.exception(PATIENCE_SECONDS), _Released)
    return [each.exception(PATIENCE_SECONDS) or each.result() for each in started]


def run_statement(database: Database, statement: str, **parameters: str) -> Any:
    """Run a statement on PostgreSQL in a batch of its own: its only value, a JSON document or null."""
    return database.batch(_run_statement, (statement, parameters))


def _run_statement(statements: PreparedStatements, items: Sequence[tuple[str, dict[str, str]]]) -> list[Any]:
    ((statement, parameters),) = items
    return [statements.run(statement, parameters)]
