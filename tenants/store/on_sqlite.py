"""The ordinary start and end of a step on SQLite, on its own connection.

SQLAlchemy's part of a step's dozen statements took ten times as long as SQLite's, while the only writer's turn was
held. As in `one_statement`, whatever is out of the ordinary matches no row and takes the long way.

Invariants: as in `steps` and `outcomes`; SQLite has one writer at a time, so nothing changes between two statements,
and the clock is read once, when that writer is us.
"""

from __future__ import annotations

import json
import sqlite3
from collections import namedtuple
from datetime import UTC, datetime
from functools import cache
from typing import Any

from ..columns import sqlite_now
from ..database import Database
from ..models import new_id
from .one_statement import owned_of
from .steps import Owned

_FIND = """
    SELECT s.id, s.job_id, s.account, s.pipeline, s.name, s.lane, s.position, s.run_token, s.attempt,
           s.max_attempts, s.lost, s.required, s.priority, s.sequence,
           j.status AS job_status, j.input, j.tags, j.approval, j.callback_url, j.created_at,
           j.started_at AS job_started_at,
           CASE WHEN j.started_at IS NULL THEN j.deadline_seconds ELSE -onelane_seconds_since(j.deadline_at) END
               AS deadline_left,
           n.id AS next_id, n.name AS next_name, n.lane AS next_lane, c.failures AS circuit_failures,
           coalesce(json_extract(a.limits, '$.lanes."' || s.lane || '".concurrency'), 1) AS concurrency,
           EXISTS (SELECT 1 FROM steps f WHERE f.job_id = s.job_id AND f.position > n.position) AS more_follow,
           CASE WHEN s.position = 0 THEN NULL
                ELSE (SELECT json_group_object(b.name, json(b.output)) FROM steps b
                      WHERE b.job_id = s.job_id AND b.position < s.position AND b.status = 'completed')
           END AS outputs
    FROM steps s
    JOIN jobs j ON j.id = s.job_id
    JOIN accounts a ON a.id = s.account
    LEFT JOIN steps n ON n.job_id = s.job_id AND n.position = s.position + 1
    LEFT JOIN circuits c ON c.account = s.account AND c.lane = s.lane
    WHERE s.id = :step_id AND s.status IN ('queued', 'retrying')
      AND (s.due_at IS NULL OR s.due_at <= :now)
      AND j.finished_at IS NULL AND j.cancel_requested_at IS NULL
      AND (j.started_at IS NOT NULL OR j.expires_at IS NULL OR j.expires_at > :now)
      AND (j.deadline_at IS NULL OR j.deadline_at > :now)
      AND a.status NOT IN ('paused', 'suspended') AND json_extract(a.limits, '$.account_concurrency') IS NULL
      AND NOT EXISTS (SELECT 1 FROM lanes l WHERE l.lane = s.lane AND l.paused)
      AND NOT EXISTS (SELECT 1 FROM tenant_queues q WHERE q.lane = s.lane AND q.account = s.account AND q.paused
                      AND (q.paused_until IS NULL OR q.paused_until > :now))
      AND c.opened_at IS NULL
      AND :slot + (SELECT count(*) FROM steps t WHERE t.lane = s.lane AND t.account = s.account
                   AND t.status = 'running' AND t.slot > :slot)
          < coalesce(json_extract(a.limits, '$.lanes."' || s.lane || '".concurrency'), 1)
"""
_TAKE = """
    UPDATE steps SET status = 'running', run_token = run_token + 1, attempt = attempt + 1, slot = :slot,
           worker_id = :worker_id, started_at = :now, due_at = NULL, progress = 0, note = '', error = NULL
    WHERE id = :step_id
"""
_NOTE = """
    INSERT INTO attempts (id, step_id, job_id, account, lane, number, run_token, slot, worker, started_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_BEGIN = """
    UPDATE jobs SET status = 'running', current_step = :name, started_at = coalesce(started_at, :now),
           deadline_at = CASE WHEN started_at IS NULL AND deadline_seconds IS NOT NULL
                              THEN onelane_now(deadline_seconds) ELSE deadline_at END
    WHERE id = :job_id
"""
_TELL = "INSERT INTO events (account, job_id, type, data, created_at) VALUES (?, ?, ?, ?, ?)"
_TELL_BOTH = _TELL + ", (?, ?, ?, ?, ?)"

_END_STEP = """
    UPDATE steps SET status = 'completed', output = ?, progress = 100, finished_at = ?, slot = NULL,
           worker_id = NULL, error = NULL
    WHERE id = ? AND status = 'running' AND run_token = ?
"""
_CLOSE = """
    UPDATE attempts SET outcome = 'completed', error = NULL, finished_at = ?
    WHERE step_id = ? AND run_token = ?
"""
_END_JOB = """
    UPDATE jobs SET status = 'completed', finished_at = ?, current_step = NULL, error = NULL, result = ?
    WHERE id = ? AND finished_at IS NULL
"""
_MOVE_JOB = """
    UPDATE jobs SET status = ?, current_step = ? WHERE id = ? AND finished_at IS NULL AND cancel_requested_at IS NULL
"""
_QUEUE = """
    UPDATE steps SET status = ?1, queued_at = CASE WHEN ?1 = 'queued' THEN ?3 ELSE queued_at END
    WHERE id = ?2 AND status = 'pending'
"""

_FORGET_FAILURES = "DELETE FROM circuits WHERE account = ? AND lane = ? AND opened_at IS NULL"


def start(database: Database, step_id: str, *, worker_id: str, slot: int) -> Owned | None:
    """As `one_statement.start`."""

    def work(connection: sqlite3.Connection) -> Owned | None:
        now = sqlite_now(0)
        found = connection.execute(_FIND, {"step_id": step_id, "slot": slot, "now": now})
        values = found.fetchone()
        if values is None:
            return None
        row = _decoded(found, values)
        known = {"step_id": step_id, "slot": slot, "worker_id": worker_id, "now": now}
        connection.execute(_TAKE, known)
        note = (row.id, row.job_id, row.account, row.lane, row.attempt, row.run_token, slot, worker_id, now)
        connection.execute(_NOTE, (new_id(), *note))
        connection.execute(_BEGIN, {"name": row.name, "now": now, "job_id": row.job_id})
        step = (row.account, row.job_id, "step", _step_data(row.name, "running", row.attempt), now)
        if row.job_status == "running":
            connection.execute(_TELL, step)
        else:
            connection.execute(_TELL_BOTH, (row.account, row.job_id, "status", '{"status": "running"}', now, *step))
        return owned_of(row)

    return database.run_on_sqlite(work)


def _decoded(found: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
    """The row with the run's own numbers, and values as Python has them."""
    row = _row_type(tuple(column[0] for column in found.description))._make(values)
    return row._replace(
        run_token=row.run_token + 1,
        attempt=row.attempt + 1,
        required=bool(row.required),
        input=json.loads(row.input),
        tags=json.loads(row.tags),
        created_at=datetime.fromisoformat(row.created_at).replace(tzinfo=UTC),
        outputs=None if row.outputs is None else json.loads(row.outputs),
    )


@cache
def _row_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Found", names)  # noqa: PYI024


def complete(database: Database, owned: Owned, output: dict[str, Any]) -> bool:
    """As `one_statement.complete`."""
    text, following, status = json.dumps(output), owned.following, owned.status_after

    def work(connection: sqlite3.Connection) -> bool | None:
        now = sqlite_now(0)
        if not connection.execute(_END_STEP, (text, now, owned.step_id, owned.run_token)).rowcount:
            return None
        connection.execute(_CLOSE, (now, owned.step_id, owned.run_token))
        if following is None:
            connection.execute(_END_JOB, (now, text, owned.job_id))
        else:
            if not connection.execute(_MOVE_JOB, (status, following.name, owned.job_id)).rowcount:
                return None
            connection.execute(_QUEUE, (status, following.id, now))
        if owned.after_failures:
            connection.execute(_FORGET_FAILURES, (owned.account, owned.lane))
        who = (owned.account, owned.job_id)
        step = _step_data(owned.name, "completed", owned.attempt)
        connection.execute(_TELL_BOTH, (*who, "step", step, now, *who, "status", json.dumps({"status": status}), now))
        return True

    return database.run_on_sqlite(work) is not None


def _step_data(name: str, status: str, attempt: int) -> str:
    return json.dumps({"step": name, "status": status, "attempt": attempt})
