"""The ordinary making of one job: in one statement on PostgreSQL, on SQLite's own connection there.

What `new_jobs.create` does in five round trips, for the case that nothing stands in the way. Whatever is out of the
ordinary (a new account, one that takes no jobs or has bounds to hold, a unique key, a later start) matches no row here,
or is not tried; then the caller takes the long way.

Invariants: as in `new_jobs`. Nothing that could refuse the job is decided here.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from ..columns import SQLITE_TIME_FORMAT, sqlite_now
from ..database import Database
from .dispatch import Dispatch
from .new_jobs import BLANK_JOB, BLANK_STEP, JobPlan, JobRows, Made, job_row, step_row

#: The job's `seq`, when it was made and when it expires.
_Told = tuple[int, datetime, datetime | None]
#: In the rows until the database has told its time; whatever is made of it is replaced then.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)

_MAKE = """
WITH account AS (
    SELECT id, clock_timestamp() AS now FROM accounts
    WHERE id = %(account)s::varchar AND status NOT IN ('draining', 'suspended')
      AND (limits ->> 'max_waiting') IS NULL AND (limits ->> 'daily_quota') IS NULL
), counted AS (
    INSERT INTO usage (account, day, jobs, seconds, tokens, posts, bytes)
    SELECT id, to_char(now AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 1, 0, 0, 0, 0 FROM account
    ON CONFLICT (account, day) DO UPDATE SET jobs = usage.jobs + excluded.jobs
), made AS (
    INSERT INTO jobs (id, account, pipeline, status, priority, input, approval, run_at, created_at, expires_at,
                      deadline_seconds, tags, callback_url)
    SELECT %(id)s::varchar, id, %(pipeline)s::varchar, %(status)s::varchar, %(priority)s::int, %(input)s::json,
           %(approval)s::boolean, now, now, now + make_interval(secs => %(expires_in)s::double precision),
           %(deadline_seconds)s::double precision, %(tags)s::jsonb, %(callback_url)s::varchar
    FROM account RETURNING id, account, pipeline, priority, seq, created_at, expires_at
), stepped AS (
    INSERT INTO steps (id, job_id, account, pipeline, position, name, lane, status, required, priority, sequence,
                       attempt, max_attempts, lost, run_token, progress, note, queued_at)
    SELECT given.id, made.id, made.account, made.pipeline, given.position, given.name, given.lane, given.status,
           given.required, made.priority, made.seq, 0, given.max_attempts, 0, 0, 0, '',
           CASE WHEN given.status = 'queued' THEN made.created_at END
    FROM made, json_populate_recordset(NULL::steps, %(steps)s::json) AS given
), told AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT account, id, 'status', json_build_object('status', %(status)s::varchar), clock_timestamp() FROM made
)
SELECT seq, created_at, expires_at FROM made
"""

_LOOK = """
    SELECT 1 FROM accounts WHERE id = ? AND status NOT IN ('draining', 'suspended')
      AND json_extract(limits, '$.max_waiting') IS NULL AND json_extract(limits, '$.daily_quota') IS NULL
"""
_COUNT = """
    INSERT INTO usage (account, day, jobs, seconds, tokens, posts, bytes) VALUES (?, ?, 1, 0, 0, 0, 0)
    ON CONFLICT (account, day) DO UPDATE SET jobs = jobs + 1
"""
_JOB = """
    INSERT INTO jobs (id, account, pipeline, status, priority, input, approval, run_at, created_at, expires_at,
                      deadline_seconds, tags, callback_url)
    VALUES (:id, :account, :pipeline, :status, :priority, :input, :approval, :now, :now, :expires_at,
            :deadline_seconds, :tags, :callback_url)
"""
_STEP = """
    INSERT INTO steps (id, job_id, account, pipeline, position, name, lane, status, required, priority, sequence,
                       attempt, max_attempts, lost, run_token, progress, note, queued_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, 0, 0, 0, '', ?)
"""
_TELL = "INSERT INTO events (account, job_id, type, data, created_at) VALUES (?, ?, 'status', ?, ?)"


def make(database: Database, account: str, plan: JobPlan) -> Made | None:
    """Make the job; None when something is out of the ordinary, and nothing was written.

    Raises:
        IntegrityError: the job is there already, by a transaction whose answer was lost.
        Unavailable, CommitUnknown: as `Database.run_one`.
    """
    if plan.unique_key is not None or plan.run_at is not None or plan.delay:
        return None
    job = job_row(account, plan.id, plan, _NO_TIME)
    steps = [step_row(account, plan.id, plan, at, 0, _NO_TIME, _NO_TIME) for at in range(len(plan.steps))]
    if database.dialect == "postgresql":
        found = _make_on_postgresql(database, job, steps, plan)
    else:
        found = database.run_on_sqlite(lambda driver: _make_on_sqlite(driver, job, steps, plan))
    if found is None:
        return None
    sequence, now, expires_at = found
    rows = JobRows(
        {**BLANK_JOB, **job, "seq": sequence, "run_at": now, "created_at": now, "expires_at": expires_at},
        [
            {**BLANK_STEP, **step, "sequence": sequence, "queued_at": now if step["status"] == "queued" else None}
            for step in steps
        ],
    )
    queued = tuple(Dispatch.of(step) for step in rows.steps if step["status"] == "queued")
    return Made((plan.id,), frozenset((plan.id,)), queued, {plan.id: rows})


def _make_on_postgresql(
    database: Database, job: dict[str, Any], steps: list[dict[str, Any]], plan: JobPlan
) -> _Told | None:
    named = ("id", "position", "name", "lane", "status", "required", "max_attempts")
    known = {
        **job,
        "input": json.dumps(job["input"]),
        "tags": json.dumps(job["tags"]),
        "expires_in": plan.expires_in,
        "steps": json.dumps([{name: step[name] for name in named} for step in steps]),
    }
    rows = database.run_one(_MAKE, known)
    if not rows:
        return None
    (row,) = rows
    return row.seq, row.created_at.astimezone(UTC), row.expires_at and row.expires_at.astimezone(UTC)


def _make_on_sqlite(
    driver: sqlite3.Connection, job: dict[str, Any], steps: list[dict[str, Any]], plan: JobPlan
) -> _Told | None:
    account = job["account"]
    if driver.execute(_LOOK, (account,)).fetchone() is None:
        return None
    text = cast("str", sqlite_now(0))
    now = datetime.strptime(text, SQLITE_TIME_FORMAT).replace(tzinfo=UTC)
    expires_at = None if plan.expires_in is None else now + timedelta(seconds=plan.expires_in)
    driver.execute(_COUNT, (account, now.date().isoformat()))
    known = {**job, "input": json.dumps(job["input"]), "tags": json.dumps(job["tags"])}
    known |= {"now": text, "expires_at": expires_at and expires_at.strftime(SQLITE_TIME_FORMAT)}
    sequence = driver.execute(_JOB, known).lastrowid
    assert sequence is not None, "an insert of one row has a row id"
    shared = ("id", "job_id", "account", "pipeline", "position", "name", "lane", "status", "required", "priority")
    for step in steps:
        queued_at = text if step["status"] == "queued" else None
        driver.execute(_STEP, (*(step[name] for name in shared), sequence, step["max_attempts"], queued_at))
    driver.execute(_TELL, (account, job["id"], json.dumps({"status": job["status"]}), text))
    return sequence, now, expires_at
