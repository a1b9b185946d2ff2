"""`Database.batch`: items of several threads share a transaction, and each has an answer or an error of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, select
from sqlalchemy.exc import DataError, IntegrityError

from tenants.database.models import Meta
from tenants.database.postgres_statements import PreparedStatements
from tenants.database.transactions import EVENTS_RECORDED, CommitUnknown, Database
from tenants.errors import NotWritable, Unavailable
from tests.tenants.store.shared_batch import share

on_postgresql = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)

meta = Meta.__table__
_NOTE = """
    WITH noted AS (
        INSERT INTO meta (key, value) SELECT name, 'x' FROM unnest(%(name)s::varchar[]) AS g(name)
        WHERE name <> 'nothing' RETURNING key, array_position(%(name)s::varchar[], key) AS place
    )
    SELECT json_agg(noted) FROM noted
"""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def note_with_statement(statements: PreparedStatements, items: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [row and row["key"] for row in statements.run_over(_NOTE, items)]


def note_with_core(connection: Connection, items: Sequence[Mapping[str, Any]]) -> list[Any]:
    answers = []
    for name in (item["name"] for item in items):
        if name != "nothing":
            connection.execute(insert(meta), {"key": name, "value": "x"})
        answers.append(name if name != "nothing" else None)
        connection.info[EVENTS_RECORDED] = True
    return answers


def note(database: Database, name: str) -> Callable[[], Any]:
    run_all: Any = note_with_statement if database.dialect == "postgresql" else note_with_core
    return lambda: database.batch(run_all, {"name": name})


def noted(database: Database) -> set[str]:
    rows = database.read(lambda c: c.execute(select(meta.c.key).where(meta.c.value == "x")).scalars().all())
    return set(rows)


def test_each_item_has_its_own_answer_or_none(database: Database, threads: ThreadPoolExecutor) -> None:
    notified: list[int] = []
    database.on_events = lambda: notified.append(1)
    names = ["a", "b", "nothing", "c"]
    answers = share(database, threads, *(note(database, name) for name in names))
    assert answers == ["a", "b", None, "c"]
    assert noted(database) >= {"a", "b", "c"}
    assert len(notified) == 1, "one commit for all"
    assert note(database, "d")() == "d"
    assert len(notified) == 2


def test_values_arrive_as_they_were_given(database: Database, threads: ThreadPoolExecutor) -> None:
    names = ["first", 'a "quoted" one', "back\\slash\\", "{br,aces}", "NULL", " spaces\nand lines ", "Ünïcödé 🐘"]
    assert share(database, threads, *(note(database, name) for name in names)) == names
    assert note(database, "")() == ""


@on_postgresql
def test_numbers_truth_values_and_nothing_arrive_as_they_were_given(database: Database) -> None:
    statement = """
        SELECT json_agg(g) FROM unnest(%(a)s::int[], %(b)s::double precision[], %(c)s::boolean[], %(d)s::text[])
            WITH ORDINALITY AS g(a, b, c, d, place)
    """
    given: list[dict[str, Any]] = [
        {"a": 1, "b": 0.5, "c": True, "d": None},
        {"a": -2, "b": 1e300, "c": False, "d": "null"},
    ]
    with closing(database.engine.raw_connection()) as pooled:
        rows = PreparedStatements.of(pooled).run_over(statement, given)
    assert rows == [{**item, "place": place} for place, item in enumerate(given, start=1)]


def test_an_item_that_is_refused_fails_by_itself(database: Database, threads: ThreadPoolExecutor) -> None:
    answers = share(database, threads, *(note(database, name) for name in ("a", "b", "a", "c")))
    assert isinstance(answers[2], IntegrityError), answers
    assert [answers[number] for number in (0, 1, 3)] == ["a", "b", "c"]
    assert noted(database) >= {"a", "b", "c"}


@pytest.mark.parametrize("failure", [CommitUnknown("the connection was lost"), Unavailable("nobody answers")])
def test_a_failure_of_the_batch_reaches_each_caller_as_its_own_error(
    database: Database, threads: ThreadPoolExecutor, failure: Unavailable
) -> None:
    runs = []

    def fail(_: Any, items: Sequence[int]) -> list[int]:
        runs.append(len(items))
        raise failure

    errors = share(database, threads, *[lambda: database.batch(fail, 1)] * 3)
    assert [type(error) for error in errors] == [type(failure)] * 3
    assert [str(error) for error in errors] == [str(failure)] * 3
    assert len(set(map(id, errors))) == 3
    assert runs == [3], "an unknown outcome is not repeated"


@on_postgresql
def test_a_batch_that_fails_after_its_statement_leaves_the_outcome_unknown(
    database: Database, threads: ThreadPoolExecutor
) -> None:
    def fail(statements: PreparedStatements, items: Sequence[Mapping[str, Any]]) -> list[Any]:
        note_with_statement(statements, items)
        raise KeyError("unexpected")

    calls = [lambda name=name: database.batch(fail, {"name": name}) for name in "ab"]
    assert [type(error) for error in share(database, threads, *calls)] == [CommitUnknown, CommitUnknown]
    assert noted(database) >= {"a", "b"}


@on_postgresql
def test_statements_deallocated_after_a_rollback_are_prepared_again(database: Database) -> None:
    """The driver deallocates all prepared statements of a connection then, and not only its own."""

    def run(statements: PreparedStatements, items: Sequence[int]) -> list[int]:
        (number,) = items
        found = statements.run(f"SELECT json_build_array(json_build_object('place', {number}))", {})
        return [row["place"] for row in found]

    for number in (1, 2):
        assert database.batch(run, number) == number
    with closing(database.engine.raw_connection()) as pooled:  # the one that was used last
        driver = pooled.driver_connection
        assert driver is not None
        driver.execute("SELECT 1", prepare=True)
        driver.rollback()
        driver.execute("SELECT 1")
        count = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'onelane%'"
        assert driver.execute(count).fetchone() == (0,)
    for number in (3, 1, 2, 3):
        assert database.batch(run, number) == number


@on_postgresql
def test_a_text_that_the_database_cannot_hold_is_refused(database: Database) -> None:
    with pytest.raises(DataError, match="NUL"):
        note(database, "a\0b")()
    assert noted(database) == set()


# --- SQLite ---------------------------------------------------------------------------------------------------------


def raise_or_note(connection: Connection, items: Sequence[str | Exception]) -> list[str]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        connection.execute(insert(meta), {"key": item, "value": "x"})
    return [str(item) for item in items]


@on_sqlite
def test_items_of_different_functions_share_a_commit(database: Database, threads: ThreadPoolExecutor) -> None:
    commits: list[Any] = []
    event.listen(database.engine, "commit", lambda _: commits.append(1))
    answers = share(
        database,
        threads,
        note(database, "a"),
        lambda: database.batch(raise_or_note, "b"),
        note(database, "c"),
        lambda: database.batch(raise_or_note, "d"),
    )
    assert answers == ["a", "b", "c", "d"]
    assert noted(database) == {"a", "b", "c", "d"}
    assert len(commits) == 1


@on_sqlite
def test_an_unexpected_error_reaches_its_own_caller_and_the_others_succeed(
    database: Database, threads: ThreadPoolExecutor
) -> None:
    calls = [lambda item=item: database.batch(raise_or_note, item) for item in ("a", KeyError("three"), "b")]
    first, error, last = share(database, threads, *calls, note(database, "c"))[:3]
    assert (first, last) == ("a", "b")
    assert isinstance(error, KeyError)
    assert noted(database) == {"a", "b", "c"}


@on_sqlite
def test_an_item_that_finds_the_disk_full_fails_by_itself(database: Database, threads: ThreadPoolExecutor) -> None:
    def fill(connection: Connection, items: Sequence[int]) -> list[int]:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        try:
            connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(1000000)")
        finally:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        return list(items)

    first, full, last = share(
        database, threads, note(database, "a"), lambda: database.batch(fill, 1), note(database, "b")
    )
    assert isinstance(full, NotWritable)
    assert "full" in str(full)
    assert database.not_writable == "disk_full"
    assert (first, last) == ("a", "b")
    assert noted(database) == {"a", "b"}


@on_sqlite
def test_no_caller_gets_a_commit_of_what_sqlite_rolled_back(database: Database, threads: ThreadPoolExecutor) -> None:
    def roll_back(connection: Connection, items: Sequence[int]) -> list[int]:
        connection.exec_driver_sql("ROLLBACK")  # as SQLite does by itself when the disk fails
        return list(items)

    calls = [note(database, "a"), lambda: database.batch(roll_back, 1), note(database, "b")]
    errors = share(database, threads, *calls)
    assert [type(each) for each in errors] == [Unavailable] * 3
    assert len(set(map(id, errors))) == 3
    assert noted(database) == set()
    assert note(database, "c")() == "c"
    assert noted(database) == {"c"}


def test_a_database_that_cannot_be_opened_is_unavailable_to_each(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/missing/x.db")
    failures = list(threads.map(lambda name: _failure(note(nowhere, name)), "abc"))
    # Nothing was begun, so the outcome is known; and no two threads raise the same error.
    assert [type(each) for each in failures] == [Unavailable] * 3
    assert len(set(map(id, failures))) == 3


def _failure(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


@on_sqlite
def test_closing_the_database_ends_the_batches_and_opens_again(database: Database, threads: ThreadPoolExecutor) -> None:
    share(database, threads, note(database, "a"), note(database, "b"))
    database.close()
    assert note(database, "c")() == "c"
    assert noted(database) == {"a", "b", "c"}


@on_sqlite
def test_a_batch_waits_for_a_writer_of_another_process(database: Database, threads: ThreadPoolExecutor) -> None:
    with closing(sqlite3.connect(str(database.url.database), isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        call = threads.submit(note(database, "a"))
        with pytest.raises(TimeoutError):
            call.result(0.1)
        other.execute("COMMIT")
        assert call.result(60) == "a"
