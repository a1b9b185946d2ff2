"""The ordinary starts and ends of steps on SQLite, on its own connection: those of several threads as a set.

SQLAlchemy's part of a step's dozen statements took ten times as long as SQLite's, while the only writer's turn was
held. And each row that a statement gives or writes by itself lets go of the interpreter's lock and waits for it again,
which took longer than the statement. So what goes together is written by statements over sets, that are given and give
one JSON text. As in `one_statement`, whatever is out of the ordinary matches no row and takes the long way.

Invariants: as in `steps` and `outcomes`, for each step by itself: what one matches does not depend on the others, and
nothing is written for one that does not match. SQLite has one writer at a time, so nothing changes between two
statements, and the clock is read once, when that writer is us.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ..columns import sqlite_now
from ..database import Database
from ..models import new_id
from .attempt import OwnedAttempt
from .one_statement import ending_of, owned_of

#: ?1: a list of [step id, slot, worker]; ?2: now. Gives a list of objects; documents in them are texts.
_FIND = """
    SELECT json_group_array(json_object(
        'place', g.place, 'worker_id', g.worker_id, 'slot', g.slot, 'id', s.id, 'job_id', s.job_id,
        'account', s.account, 'pipeline', s.pipeline, 'name', s.name, 'lane', s.lane, 'position', s.position,
        'run_token', s.run_token + 1, 'attempt', s.attempt + 1, 'max_attempts', s.max_attempts, 'lost', s.lost,
        'required', s.required, 'priority', s.priority, 'sequence', s.sequence,
        'job_status', j.status, 'input', j.input, 'tags', j.tags, 'approval', j.approval,
        'callback_url', j.callback_url, 'created_at', j.created_at, 'job_started_at', j.started_at,
        'deadline_left', CASE WHEN j.started_at IS NULL THEN j.deadline_seconds
                              ELSE -onelane_seconds_since(j.deadline_at) END,
        'next_id', n.id, 'next_name', n.name, 'next_lane', n.lane, 'circuit_failures', c.failures,
        'concurrency', coalesce(json_extract(a.limits, '$.lanes."' || s.lane || '".concurrency'), 1),
        'more_follow', EXISTS (SELECT 1 FROM steps f WHERE f.job_id = s.job_id AND f.position > n.position),
        'outputs', '' || CASE WHEN s.position = 0 THEN NULL
                              ELSE (SELECT json_group_object(b.name, json(b.output)) FROM steps b
                                    WHERE b.job_id = s.job_id AND b.position < s.position AND b.status = 'completed')
                         END
    ))
    FROM (SELECT key AS place, json_extract(value, '$[0]') AS step_id, json_extract(value, '$[1]') AS slot,
                 json_extract(value, '$[2]') AS worker_id FROM json_each(?1)) g
    CROSS JOIN steps s ON s.id = g.step_id
    JOIN jobs j ON j.id = s.job_id
    JOIN accounts a ON a.id = s.account
    LEFT JOIN steps n ON n.job_id = s.job_id AND n.position = s.position + 1
    LEFT JOIN circuits c ON c.account = s.account AND c.lane = s.lane
    WHERE s.status IN ('queued', 'retrying')
      AND (s.due_at IS NULL OR s.due_at <= ?2)
      AND j.finished_at IS NULL AND j.cancel_requested_at IS NULL
      AND (j.started_at IS NOT NULL OR j.expires_at IS NULL OR j.expires_at > ?2)
      AND (j.deadline_at IS NULL OR j.deadline_at > ?2)
      AND a.status NOT IN ('paused', 'suspended') AND json_extract(a.limits, '$.account_concurrency') IS NULL
      AND NOT EXISTS (SELECT 1 FROM lanes l WHERE l.lane = s.lane AND l.paused)
      AND NOT EXISTS (SELECT 1 FROM tenant_queues q WHERE q.lane = s.lane AND q.account = s.account AND q.paused
                      AND (q.paused_until IS NULL OR q.paused_until > ?2))
      AND c.opened_at IS NULL
      AND (NOT j.approval OR n.id IS NOT NULL)
      AND g.slot + (SELECT count(*) FROM steps t WHERE t.lane = s.lane AND t.account = s.account
                    AND t.status = 'running' AND t.slot > g.slot)
          < coalesce(json_extract(a.limits, '$.lanes."' || s.lane || '".concurrency'), 1)
"""
#: ?1: a list of [step id, slot, worker]; ?2: now.
_TAKE = """
    UPDATE steps SET status = 'running', run_token = run_token + 1, attempt = attempt + 1, slot = g.slot,
           worker_id = g.worker_id, started_at = ?2, due_at = NULL, progress = 0, note = '', error = NULL
    FROM (SELECT json_extract(value, '$[0]') AS step_id, json_extract(value, '$[1]') AS slot,
                 json_extract(value, '$[2]') AS worker_id FROM json_each(?1)) g
    WHERE steps.id = g.step_id
"""
#: ?1: a list of [attempt id, step id, job id, account, lane, number, run token, slot, worker]; ?2: now.
_NOTE = """
    INSERT INTO attempts (id, step_id, job_id, account, lane, number, run_token, slot, worker, started_at)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
           json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'), ?2
    FROM json_each(?1)
"""
#: ?1: a list of [job id, step name]; ?2: now.
_BEGIN = """
    UPDATE jobs SET status = 'running', current_step = g.name, started_at = coalesce(started_at, ?2),
           deadline_at = CASE WHEN started_at IS NULL AND deadline_seconds IS NOT NULL
                              THEN onelane_now(deadline_seconds) ELSE deadline_at END
    FROM (SELECT json_extract(value, '$[0]') AS job_id, json_extract(value, '$[1]') AS name FROM json_each(?1)) g
    WHERE jobs.id = g.job_id
"""
#: ?1: a list of [account, job id, type, data]; ?2: now.
_TELL = """
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]'), ?2
    FROM json_each(?1) ORDER BY key
"""

# Of steps that end. ?1: a list of what `one_statement.ending_of` gives, without the outputs; ?2: now; ?3: the outputs,
# which stand apart because each look into an object reads all of it.
_HELD = """
    SELECT json_group_array(g.key)
    FROM json_each(?1) g
    CROSS JOIN steps s ON s.id = json_extract(g.value, '$.step_id')
    JOIN jobs j ON j.id = s.job_id
    WHERE s.status = 'running' AND s.run_token = json_extract(g.value, '$.run_token')
      AND (json_extract(g.value, '$.next_id') = '' OR (j.finished_at IS NULL AND j.cancel_requested_at IS NULL))
"""
_END_STEPS = """
    UPDATE steps SET status = 'completed', output = json_extract(?3, '$[' || g.key || ']'), progress = 100,
           finished_at = ?2, slot = NULL, worker_id = NULL, error = NULL
    FROM json_each(?1) g
    WHERE steps.id = json_extract(g.value, '$.step_id')
"""
_CLOSE = """
    UPDATE attempts SET outcome = 'completed', error = NULL, finished_at = ?2
    FROM json_each(?1) g
    WHERE attempts.step_id = json_extract(g.value, '$.step_id')
      AND attempts.run_token = json_extract(g.value, '$.run_token')
"""
_END_JOBS = """
    UPDATE jobs SET status = 'completed', finished_at = ?2, current_step = NULL, error = NULL,
           result = json_extract(?3, '$[' || g.key || ']')
    FROM json_each(?1) g
    WHERE json_extract(g.value, '$.next_id') = '' AND jobs.id = json_extract(g.value, '$.job_id')
      AND jobs.finished_at IS NULL
"""
_MOVE_JOBS = """
    UPDATE jobs SET status = json_extract(g.value, '$.job_status'), current_step = json_extract(g.value, '$.next_name')
    FROM json_each(?1) g
    WHERE json_extract(g.value, '$.next_id') <> '' AND jobs.id = json_extract(g.value, '$.job_id')
"""
_QUEUE = """
    UPDATE steps SET status = json_extract(g.value, '$.job_status'),
           queued_at = CASE json_extract(g.value, '$.job_status') WHEN 'queued' THEN ?2 ELSE steps.queued_at END
    FROM json_each(?1) g
    WHERE steps.id = json_extract(g.value, '$.next_id') AND steps.status = 'pending'
"""
_FORGET_FAILURES = """
    DELETE FROM circuits WHERE opened_at IS NULL AND (account, lane) IN (
        SELECT json_extract(value, '$.account'), json_extract(value, '$.lane') FROM json_each(?1)
        WHERE json_extract(value, '$.forgets'))
"""


def start(database: Database, step_id: str, *, worker_id: str, slot: int) -> OwnedAttempt | None:
    """As `one_statement.start`."""
    owned: OwnedAttempt | None = database.run_together_on_sqlite(_start_all, (step_id, slot, worker_id))
    return owned


def _start_all(connection: sqlite3.Connection, wanted: Sequence[tuple[str, int, str]]) -> list[OwnedAttempt | None]:
    now = sqlite_now(0)
    (found,) = connection.execute(_FIND, (json.dumps(wanted), now)).fetchone()
    rows = json.loads(found)
    owned: list[OwnedAttempt | None] = [None] * len(wanted)
    if rows:
        taken, begun, notes, events = [], [], [], []
        for row in rows:
            taken.append((row["id"], row["slot"], row["worker_id"]))
            begun.append((row["job_id"], row["name"]))
            numbers = (row["attempt"], row["run_token"], row["slot"], row["worker_id"])
            notes.append((new_id(), row["id"], row["job_id"], row["account"], row["lane"], *numbers))
            if row["job_status"] != "running":
                events.append((row["account"], row["job_id"], "status", '{"status": "running"}'))
            events.append((row["account"], row["job_id"], "step", _step_data(row["name"], "running", row["attempt"])))
        connection.execute(_TAKE, (json.dumps(taken), now))
        connection.execute(_NOTE, (json.dumps(notes), now))
        connection.execute(_BEGIN, (json.dumps(begun), now))
        connection.execute(_TELL, (json.dumps(events), now))
    for row in rows:
        owned[row["place"]] = _owned(row)
    return owned


def _step_data(name: str, status: str, attempt: int) -> str:
    return json.dumps({"step": name, "status": status, "attempt": attempt})


def _owned(row: dict[str, Any]) -> OwnedAttempt:
    decoded = {
        "required": bool(row["required"]),
        "input": json.loads(row["input"]),
        "tags": json.loads(row["tags"]),
        "outputs": None if row["outputs"] is None else json.loads(row["outputs"]),
        "created_at": _time(row["created_at"]),
        "job_started_at": _time(row["job_started_at"]),
    }
    return owned_of({**row, **decoded})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def complete(database: Database, owned: OwnedAttempt, output: dict[str, Any]) -> bool:
    """As `one_statement.complete`."""
    return database.run_together_on_sqlite(_complete_all, ending_of(owned, output)) is not None


def _complete_all(connection: sqlite3.Connection, endings: Sequence[dict[str, Any]]) -> list[bool | None]:
    now = sqlite_now(0)
    named = [{name: value for name, value in each.items() if name != "output"} for each in endings]
    (found,) = connection.execute(_HELD, (json.dumps(named),)).fetchone()
    held = set(json.loads(found))
    if held:
        going = [each for place, each in enumerate(named) if place in held]
        known, outputs = json.dumps(going), json.dumps([endings[place]["output"] for place in sorted(held)])
        connection.execute(_END_STEPS, (known, now, outputs))
        connection.execute(_CLOSE, (known, now))
        if any(not each["next_id"] for each in going):
            connection.execute(_END_JOBS, (known, now, outputs))
        if any(each["next_id"] for each in going):
            connection.execute(_MOVE_JOBS, (known,))
            connection.execute(_QUEUE, (known, now))
        if any(each["forgets"] for each in going):
            connection.execute(_FORGET_FAILURES, (known,))
        events = []
        for each in going:
            who = (each["account"], each["job_id"])
            events.append((*who, "step", each["step_data"]))
            events.append((*who, "status", json.dumps({"status": each["job_status"]})))
        connection.execute(_TELL, (json.dumps(events), now))
    return [True if place in held else None for place in range(len(endings))]
