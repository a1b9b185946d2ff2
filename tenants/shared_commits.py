"""Short transactions on SQLite, several with one commit: the flush to disk takes longer than all that they write.

Invariants: each takes effect or is rolled back by itself, whatever became of those beside it; an answer is given only
once the commit is on the disk.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from .database_trouble import unavailable
from .errors import Unavailable

#: A transaction that stands for itself; None from it rolls it back.
Work = Callable[[sqlite3.Connection], Any]
#: Gives an answer for each of some items, within one transaction.
RunAll = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
_Begin = Callable[[sqlite3.Connection, Callable[[], None]], None]


def run_all(
    engine: Engine,
    begin: _Begin,
    calls: Sequence[tuple[RunAll, Any]],
    *,
    let_go: Callable[[], None],
    committed: Callable[[], None],
) -> list[Any]:
    """What each call gives, or its error.

    Args:
        engine: of a SQLite database.
        begin: begins a transaction that writes, and calls its second argument before it waits.
        calls: functions with an item for each; those with the same function are made as one.
        let_go: called before the commit, or before anything else that is waited for or takes a while.
        committed: called after the commit.
    """
    if not cast("QueuePool", engine.pool).checkedin():
        let_go()  # a connection must be made or waited for
    try:
        with closing(engine.raw_connection()) as pooled:
            driver = cast("sqlite3.Connection", pooled.driver_connection)
            try:
                begin(driver, let_go)
                answers = _answers(driver, calls, functools.partial(begin, driver, let_go), let_go)
                let_go()
                driver.execute("COMMIT")
            finally:
                if driver.in_transaction:
                    driver.rollback()
    except (sqlite3.Error, PoolTimeout) as error:
        # Each thread raises an error of its own: one that several raise would mix their tracebacks.
        return [_translated(error) for _ in calls]
    committed()
    return answers


def alone(driver: sqlite3.Connection, works: Sequence[Work]) -> list[Any]:
    """Makes a transaction that stands for itself like one of many."""
    return [work(driver) for work in works]


def _answers(
    driver: sqlite3.Connection,
    calls: Sequence[tuple[RunAll, Any]],
    begin_again: Callable[[], None],
    let_go: Callable[[], None],
) -> list[Any]:
    groups = _groups(calls)
    if all(function is not alone for function, _ in groups):
        try:
            return _run_groups(calls, groups, lambda function, items: function(driver, items))
        except Exception:
            if not driver.in_transaction:
                raise  # SQLite has rolled all of it back: the disk is full, say
            # It is seldom, and savepoints take time: so only now each has its own.
            driver.execute("ROLLBACK")
            begin_again()
    let_go()  # these take a while, one after the other
    return _run_groups(calls, groups, functools.partial(_within, driver))


def _run_groups(
    calls: Sequence[tuple[RunAll, Any]],
    groups: Sequence[tuple[RunAll, list[int]]],
    run: Callable[[RunAll, Sequence[Any]], Sequence[Any]],
) -> list[Any]:
    answers: list[Any] = [None] * len(calls)
    for function, places in groups:
        given = run(function, [calls[place][1] for place in places])
        for place, answer in zip(places, given, strict=True):
            answers[place] = answer
    return answers


def _groups(calls: Sequence[tuple[RunAll, Any]]) -> list[tuple[RunAll, list[int]]]:
    """The places of the calls that can be made as one, by what makes them."""
    together: dict[RunAll, list[int]] = {}
    apart: list[tuple[RunAll, list[int]]] = []
    for place, (function, _) in enumerate(calls):
        if function is alone:
            apart.append((function, [place]))
        else:
            together.setdefault(function, []).append(place)
    return [*together.items(), *apart]


def _within(driver: sqlite3.Connection, function: RunAll, items: Sequence[Any]) -> Sequence[Any]:
    """What is given for each item; what was written is gone where that is None or an error."""
    driver.execute("SAVEPOINT one")
    try:
        answers = function(driver, items)
    except Exception as error:
        if not driver.in_transaction:
            raise  # SQLite has rolled all of it back: the disk is full, say
        driver.execute("ROLLBACK TO one")
        if len(items) > 1:  # one of them is to blame
            answers = [answer for item in items for answer in _within(driver, function, [item])]
        else:
            answers = [_translated(error)]
    else:
        if all(answer is None for answer in answers):
            driver.execute("ROLLBACK TO one")
    driver.execute("RELEASE one")
    return answers


def _translated(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError):
        return IntegrityError("on SQLite", None, error)
    if isinstance(error, sqlite3.Error):
        failure = unavailable(error)
    elif isinstance(error, PoolTimeout):
        failure = Unavailable(f"no database connection became free: {error}")
    else:
        return error
    failure.__cause__ = error
    return failure
