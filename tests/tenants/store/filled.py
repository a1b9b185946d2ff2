"""A database with many rows of everything that has a list, and the lists over it with every filter and some together.

`fill` writes by COPY on PostgreSQL and in one transaction on SQLite. What is frequent in a real table is frequent here,
and what is rare is rare: most jobs are completed, a few failed, one pipeline in ten thousand jobs, tags on a third.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import uuid_utils
from sqlalchemy import Connection

from tenants.database.columns import SQLITE_TIME_FORMAT
from tenants.database.transactions import Database
from tenants.store import audit
from tenants.store.accounts import accounts, keys
from tenants.store.dead_letters import letters as dead_letters
from tenants.store.dead_letters.letters import LetterFilter
from tenants.store.jobs import lists as job_lists
from tenants.store.jobs import schedules
from tenants.store.jobs.lists import JobFilter
from tenants.store.publishing import drafts

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_Row = tuple[Any, ...]
_JOB_COLUMNS = (
    "seq, id, account, pipeline, status, priority, input, approval, run_at, created_at, finished_at, unique_key, tags"
)
_LETTER_COLUMNS = (
    "seq, id, account, lane, pipeline, actor, job_id, error_code, error, message, attempts, created_at, resolution"
)
_SCHEDULE_COLUMNS = (
    "seq, id, account, name, pipeline, input, timezone, jitter, overlap, catch_up, starts_at, enabled, approval, "
    "inputs_taken, created_at, updated_at"
)


@dataclass
class Filled:
    """What `fill` wrote, to ask for."""

    jobs: int
    accounts: int
    some_id: str = ""
    ended: datetime = BEGAN
    tables: dict[str, tuple[str, Callable[[], Iterator[_Row]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ended = BEGAN + timedelta(seconds=self.jobs)
        self.tables = {
            "accounts": ("id, status, created_at, updated_at", self._accounts),
            "jobs": (
                _JOB_COLUMNS,
                self._jobs,
            ),
            "drafts": (
                "seq, id, account, job_id, title, body, tags, status, version, created_at, updated_at",
                self._drafts,
            ),
            "dead_letters": (
                _LETTER_COLUMNS,
                self._letters,
            ),
            "audit": ("seq, at, actor, address, action, target", self._audit),
            "schedules": (
                _SCHEDULE_COLUMNS,
                self._schedules,
            ),
        }

    def account(self, number: int) -> str:
        return f"account-{number % self.accounts:05d}"

    def _accounts(self) -> Iterator[_Row]:
        for number in range(self.accounts):
            status = "suspended" if number % 500 == 3 else "active"
            yield self.account(number), status, BEGAN, BEGAN

    def _jobs(self) -> Iterator[_Row]:
        for seq in range(1, self.jobs + 1):
            at = BEGAN + timedelta(seconds=seq)
            made = _id_of(at, seq)
            if seq == self.jobs // 2:
                self.some_id = made
            status = "failed" if seq % 100 == 7 else "queued" if seq > self.jobs - self.jobs // 200 else "completed"
            pipeline = "rare" if seq % 10_000 == 9 else "flatten" if seq % 3 == 0 else "blog"
            tags = ["spring", f"order-{seq}"] if seq % 3 == 1 else []
            key = f"key-{seq}" if seq % 4 == 0 else None
            finished = None if status == "queued" else at
            yield (
                *(seq, made, self.account(seq * 7919), pipeline, status, 5, '{"topic": "bees"}', False, at, at),
                *(finished, key, json.dumps(tags)),
            )

    def _drafts(self) -> Iterator[_Row]:
        for seq in range(1, self.jobs // 4 + 1):
            at = BEGAN + timedelta(seconds=seq)
            status = "needs_review" if seq % 1000 == 7 else "published"
            made = str(uuid_utils.uuid7())
            yield seq, made, self.account(seq * 7919), made, "title", "body", "[]", status, 1, at, at

    def _letters(self) -> Iterator[_Row]:
        for seq in range(1, self.jobs // 20 + 1):
            open_letter = seq % 10 == 0
            code = "timed_out" if seq % 700 == 0 else "publish_failed"
            lane, pipeline = ("generate", "rare") if seq % 490 == 0 else ("publish", "blog")
            resolution = None if open_letter else "replayed"
            made, account = str(uuid_utils.uuid7()), self.account(seq * 7919)
            yield (
                *(seq, made, account, lane, pipeline, f"{pipeline}.{lane}", None, code, "{}", "{}", 3, BEGAN),
                resolution,
            )

    def _audit(self) -> Iterator[_Row]:
        for seq in range(1, self.jobs // 10 + 1):
            rare = seq % 5000 == 11
            action = "DELETE /v1/accounts/{account}" if rare else "PUT /v1/accounts/{account}/limits"
            actor = "admin:key-7" if rare else "admin:admin"
            yield seq, BEGAN, actor, "192.0.2.1", action, f"/v1/accounts/{self.account(seq)}/limits"

    def _schedules(self) -> Iterator[_Row]:
        for seq in range(1, self.jobs // 50 + 1):
            made = str(uuid_utils.uuid7())
            yield (
                *(seq, made, self.account(seq * 7919), "s", "blog", "{}", "UTC", 0.0, "queue", "one", BEGAN, True),
                *(False, 0, BEGAN, BEGAN),
            )


def _id_of(at: datetime, number: int) -> str:
    """A UUIDv7 of that time."""
    time = f"{int(at.timestamp() * 1000):012x}"
    return f"{time[:8]}-{time[8:]}-7000-8000-{number:012x}"


def fill(database: Database, *, jobs: int, accounts: int) -> Filled:
    """Write the rows and let the database count them, as its own housekeeping would."""
    filled = Filled(jobs, accounts)
    connection = database.engine.raw_connection()
    driver: Any = connection.driver_connection
    try:
        if isinstance(driver, psycopg.Connection):
            with driver.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = 0")
                for table, (columns, rows) in filled.tables.items():
                    with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                        for row in rows():
                            copy.write_row(row)
            driver.commit()
            driver.autocommit = True
            driver.execute("SET statement_timeout = 0")
            driver.execute("VACUUM ANALYZE")
            driver.execute("RESET statement_timeout")
            driver.autocommit = False
        else:
            assert isinstance(driver, sqlite3.Connection)
            driver.execute("BEGIN IMMEDIATE")
            for table, (columns, rows) in filled.tables.items():
                marks = ", ".join("?" * len(columns.split(",")))
                driver.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", map(_for_sqlite, rows()))
            driver.commit()
    finally:
        connection.close()
    return filled


def _for_sqlite(row: _Row) -> _Row:
    return tuple(
        each.replace(tzinfo=None).strftime(SQLITE_TIME_FORMAT) if isinstance(each, datetime) else each for each in row
    )


def lists(filled: Filled) -> dict[str, Callable[[Connection], Any]]:
    """Every list of the API by a name that says its filters, as functions that read the first page."""
    one, middle = filled.account(7919), filled.ended - timedelta(seconds=filled.jobs // 2)
    asked: dict[str, Callable[[Connection], Any]] = {}

    def job(name: str, **chosen: Any) -> None:
        asked[f"jobs {name}"] = lambda c: job_lists.page(c, JobFilter(**chosen), limit=50, cursor=None)

    job("all")
    job("account", account=one)
    job("account status", account=one, status="failed")
    job("account pipeline", account=one, pipeline="rare")
    job("account tag", account=one, tag="spring")
    job("account q", account=one, q="order-1")
    for status in ("completed", "failed", "queued", "expired"):
        job(f"status={status}", status=status)
    for pipeline in ("blog", "rare", "none"):
        job(f"pipeline={pipeline}", pipeline=pipeline)
    job("status pipeline", status="failed", pipeline="rare")
    for tag in ("spring", "order-7", "none"):
        job(f"tag={tag}", tag=tag)
    job("tag status", tag="spring", status="completed")
    job("created_before long ago", created_before=BEGAN + timedelta(seconds=100))
    job("created_before middle", created_before=middle)
    job("created_after middle", created_after=middle)
    job("created between", created_after=middle, created_before=middle + timedelta(seconds=60))
    job("created between, status", created_after=middle, created_before=middle + timedelta(hours=1), status="failed")
    for q in (
        "order-",
        "order-77",
        "key-1",
        "key-777",
        "s",
        "0",
        filled.some_id[:13],
        filled.some_id,
        "nothing",
        "key",
    ):
        job(f"q={q}", q=q)
    for whose, shown in ((None, None), (one, None), (None, "needs_review"), (None, "published"), (one, "published")):
        asked[f"drafts account={whose} status={shown}"] = lambda c, a=whose, s=shown: drafts.page(  # type: ignore[misc]
            c, account=a, status=s, limit=50, cursor=None
        )
    for chosen in (
        {},
        {"account": one},
        {"lane": "generate"},
        {"lane": "publish"},
        {"pipeline": "rare"},
        {"error_code": "timed_out"},
        {"error_code": "publish_failed", "lane": "publish"},
    ):
        asked[f"dead letters {chosen}"] = lambda c, f=chosen: dead_letters.page(  # type: ignore[misc]
            c, LetterFilter(**f), limit=50, cursor=None
        )
    named: list[tuple[str | None, str | None]] = [(None, None), ("account-0001", None), ("account-0002", "active")]
    for begins, state in [*named, (None, "suspended"), (None, "active"), (None, "draining")]:
        asked[f"accounts q={begins} status={state}"] = lambda c, q=begins, s=state: accounts.page(  # type: ignore[misc]
            c, q=q, status=s, limit=50, cursor=None
        )
    for who in ({}, {"actor": "admin:key-7"}, {"action": "DELETE /v1/accounts/{account}"}, {"target": "/v1/nothing"}):
        narrowed = {"actor": None, "action": None, "target": None, **who}
        asked[f"audit {who}"] = lambda c, n=narrowed: audit.page(c, **n, limit=50, cursor=None)  # type: ignore[misc]
    for whose in (None, one):
        asked[f"schedules account={whose}"] = lambda c, a=whose: schedules.page(  # type: ignore[misc]
            c, account=a, limit=50, cursor=None
        )
    asked["keys"] = lambda c: keys.page(c, one, limit=50, cursor=None)
    return asked
