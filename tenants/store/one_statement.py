"""The ordinary starts and ends of steps on PostgreSQL: those of several threads in one statement, one round trip.

What `steps.start` and `outcomes.complete` do in six round trips each, for the case that nothing stands in the way.
Whatever is out of the ordinary (a pause, a deadline that has passed, a cancelled job, limits over all lanes, the last
step of a job that asks for approval, a job that somebody else holds at the moment) matches no row here; then the caller
takes the long way, which says what it was.

Most of such a statement's cost is paid however many steps it is for: the commit's flush, the way there and back, and
PostgreSQL's own setting up of the writes with their indexes. So calls of several threads go together, without waiting
for company (`Database.run_together`).

Invariants: as in `steps` and `outcomes`, for each step by itself: what one matches does not depend on the others. One
statement is one transaction: all of it takes effect, or nothing. Each job's row is locked first, by the part that the
others read from; one that is held elsewhere is passed over, so that steps that go together never wait for each other's
jobs in two orders; a row that changed meanwhile is looked at again. So is the account's row kept, by a shared lock; one
that was changed since the statement began matches nothing, because what runs is counted as it was then.

How it is planned does not depend on what PostgreSQL thinks of the tables' sizes, because a plan is kept for as long as
the connection, and one that was made while a table was new would read all of it at each step: each table is looked up
by its own fenced subquery (``LATERAL … OFFSET 0``), what is written is named by ``= ANY`` beside the join, a status
that has an index of its own comes from a row and not from a literal, and the arrays are of a length that the planner
does not see (or it would make a plan for each call, which takes longer than running it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..database import Database
from ..models import new_id
from .attempt import OwnedAttempt
from .dispatch import Dispatch
from .steps import may_have_failures

_START = """
WITH arrays AS MATERIALIZED (
    SELECT %(step_id)s::varchar[] AS step_ids, %(worker_id)s::varchar[] AS worker_ids, %(slot)s::int[] AS slots,
           %(attempt_id)s::varchar[] AS attempt_ids
), given AS MATERIALIZED (
    SELECT g.* FROM arrays, unnest(step_ids, worker_ids, slots, attempt_ids)
        WITH ORDINALITY AS g(step_id, worker_id, slot, attempt_id, place)
), found AS MATERIALIZED (
    SELECT g.worker_id, g.slot, g.attempt_id, g.place, s.*, j.*,
           n.id AS next_id, n.name AS next_name, n.lane AS next_lane,
           EXISTS (SELECT 1 FROM steps f WHERE f.job_id = s.job_id AND f.position > n.position) AS more_follow,
           coalesce((a.limits -> 'lanes' -> s.lane ->> 'concurrency')::int, 1) AS concurrency,
           c.failures AS circuit_failures,
           CASE WHEN s.position = 0 THEN NULL
                ELSE (SELECT json_object_agg(b.name, b.output) FROM steps b
                      WHERE b.job_id = s.job_id AND b.position < s.position AND b.status = 'completed')
           END AS outputs
    FROM given g
    CROSS JOIN LATERAL (
        SELECT t.id, t.job_id, t.account, t.pipeline, t.name, t.lane, t.position, t.status, t.run_token AS seen_token,
               t.max_attempts, t.lost, t.required, t.priority, t.sequence
        FROM steps t WHERE t.id = g.step_id AND (t.due_at IS NULL OR t.due_at <= clock_timestamp()) OFFSET 0
    ) s
    CROSS JOIN LATERAL (
        SELECT o.limits, o.updated_at FROM accounts o
        WHERE o.id = s.account AND o.status NOT IN ('paused', 'suspended')
          AND (o.limits ->> 'account_concurrency') IS NULL OFFSET 0
    ) a
    LEFT JOIN LATERAL (
        SELECT t.id, t.name, t.lane, t.position FROM steps t
        WHERE t.job_id = s.job_id AND t.position = s.position + 1 OFFSET 0
    ) n ON true
    LEFT JOIN LATERAL (
        SELECT o.failures, o.opened_at FROM circuits o WHERE o.account = s.account AND o.lane = s.lane OFFSET 0
    ) c ON true
    CROSS JOIN LATERAL (
        SELECT o.status AS job_status, o.input, o.tags, o.approval, o.callback_url, o.created_at,
               o.started_at AS job_started_at,
               CASE WHEN o.started_at IS NULL THEN o.deadline_seconds
                    ELSE EXTRACT(EPOCH FROM (o.deadline_at - clock_timestamp()))::double precision END AS deadline_left
        FROM jobs o
        WHERE o.id = s.job_id AND o.finished_at IS NULL AND o.cancel_requested_at IS NULL
          AND (o.started_at IS NOT NULL OR o.expires_at IS NULL OR o.expires_at > clock_timestamp())
          AND (o.deadline_at IS NULL OR o.deadline_at > clock_timestamp())
        OFFSET 0 FOR UPDATE SKIP LOCKED
    ) j
    CROSS JOIN LATERAL (
        SELECT 1 FROM accounts o WHERE o.id = s.account AND o.updated_at = a.updated_at
        OFFSET 0 FOR KEY SHARE SKIP LOCKED
    ) k
    WHERE s.status IN ('queued', 'retrying')
      AND (SELECT l.paused FROM lanes l WHERE l.lane = s.lane) IS NOT TRUE
      AND (SELECT q.paused AND (q.paused_until IS NULL OR q.paused_until > clock_timestamp())
           FROM tenant_queues q WHERE q.lane = s.lane AND q.account = s.account) IS NOT TRUE
      AND c.opened_at IS NULL
      AND (NOT j.approval OR n.id IS NOT NULL)
), taken AS (
    UPDATE steps SET status = 'running', run_token = steps.run_token + 1, attempt = steps.attempt + 1,
           slot = found.slot, worker_id = found.worker_id, started_at = clock_timestamp(), due_at = NULL,
           progress = 0, note = '', error = NULL
    FROM found
    WHERE steps.id = found.id AND steps.id = ANY (ARRAY(SELECT step_id FROM given))
      AND steps.status = found.status AND steps.run_token = found.seen_token
      AND found.slot + (SELECT count(*) FROM steps t
           WHERE t.lane = found.lane AND t.account = found.account AND t.status = 'running'
             AND t.slot > found.slot) < found.concurrency
    RETURNING steps.id, steps.run_token, steps.attempt, steps.started_at
), owned AS MATERIALIZED (
    SELECT found.*, taken.run_token, taken.attempt, taken.started_at FROM found JOIN taken ON taken.id = found.id
), noted AS (
    INSERT INTO attempts (id, step_id, job_id, account, lane, number, run_token, slot, worker, started_at)
    SELECT attempt_id, id, job_id, account, lane, attempt, run_token, slot, worker_id, started_at FROM owned
), begun AS (
    UPDATE jobs SET status = 'running', current_step = owned.name,
           started_at = coalesce(jobs.started_at, owned.started_at),
           deadline_at = CASE WHEN jobs.started_at IS NULL AND jobs.deadline_seconds IS NOT NULL
                              THEN clock_timestamp() + make_interval(secs => jobs.deadline_seconds)
                              ELSE jobs.deadline_at END
    FROM owned WHERE jobs.id = owned.job_id AND jobs.id = ANY (ARRAY(SELECT job_id FROM owned))
), told AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT account, job_id, 'status', '{"status": "running"}'::json, clock_timestamp()
    FROM owned WHERE job_status <> 'running'
    UNION ALL
    SELECT account, job_id, 'step',
           json_build_object('step', name, 'status', 'running', 'attempt', attempt), clock_timestamp()
    FROM owned
)
SELECT json_agg(owned) FROM owned
"""

_QUEUED = """), queued AS (
    UPDATE steps SET status = done.job_status,
           queued_at = CASE WHEN done.job_status = 'queued' THEN clock_timestamp() ELSE steps.queued_at END
    FROM done WHERE steps.id = done.next_id AND steps.id = ANY (ARRAY(SELECT next_id FROM given))
      AND steps.status = 'pending'
"""
_FORGOTTEN = """), forgotten AS (
    DELETE FROM circuits USING done
    WHERE done.forgets AND circuits.account = done.account AND circuits.lane = done.lane
      AND circuits.account = ANY (ARRAY(SELECT account FROM given)) AND circuits.opened_at IS NULL
"""
# A job that somebody wants cancelled does not go on to another step; that is out of the ordinary.
_COMPLETE_TEXT = """
WITH arrays AS MATERIALIZED (
    SELECT %(step_id)s::varchar[] AS step_ids, %(job_id)s::varchar[] AS job_ids, %(account)s::varchar[] AS accounts,
           %(lane)s::varchar[] AS lanes, %(run_token)s::int[] AS run_tokens, %(output)s::text[] AS outputs,
           %(step_data)s::text[] AS step_datas, %(job_status)s::varchar[] AS job_statuses,
           %(next_id)s::varchar[] AS next_ids, %(next_name)s::varchar[] AS next_names, %(forgets)s::boolean[] AS forget
), given AS MATERIALIZED (
    SELECT g.*, 'running'::varchar AS status
    FROM arrays, unnest(step_ids, job_ids, accounts, lanes, run_tokens, outputs, step_datas, job_statuses, next_ids,
                        next_names, forget)
        WITH ORDINALITY AS g(step_id, job_id, account, lane, run_token, output, step_data, job_status, next_id,
                             next_name, forgets, place)
), held AS MATERIALIZED (
    SELECT g.* FROM given g
    CROSS JOIN LATERAL (
        SELECT 1 FROM jobs o WHERE o.id = g.job_id AND (g.next_id = '' OR o.cancel_requested_at IS NULL)
        OFFSET 0 FOR UPDATE SKIP LOCKED
    ) j
), done AS (
    UPDATE steps SET status = 'completed', output = held.output::json, progress = 100,
           finished_at = clock_timestamp(), slot = NULL, worker_id = NULL, error = NULL
    FROM held WHERE steps.id = held.step_id AND steps.id = ANY (ARRAY(SELECT step_id FROM given))
      AND steps.status = held.status AND steps.run_token = held.run_token
    RETURNING held.*
), closed AS (
    UPDATE attempts SET outcome = 'completed', error = NULL, finished_at = clock_timestamp()
    FROM done WHERE attempts.step_id = done.step_id AND attempts.run_token = done.run_token
      AND attempts.step_id = ANY (ARRAY(SELECT step_id FROM given))
), moved AS (
    UPDATE jobs SET status = done.job_status, current_step = nullif(done.next_name, ''),
           finished_at = CASE WHEN done.next_id = '' THEN clock_timestamp() END,
           error = CASE WHEN done.next_id = '' THEN NULL ELSE jobs.error END,
           result = CASE WHEN done.next_id = '' THEN done.output::json ELSE jobs.result END
    FROM done WHERE jobs.id = done.job_id AND jobs.id = ANY (ARRAY(SELECT job_id FROM given))
      AND jobs.finished_at IS NULL
/* queued *//* forgotten */
), told AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT account, job_id, 'step', step_data::json, clock_timestamp() FROM done
    UNION ALL
    SELECT account, job_id, 'status', json_build_object('status', job_status), clock_timestamp() FROM done
)
SELECT json_agg(done) FROM (SELECT place FROM done) AS done
"""
#: By whether a step follows any of them, and whether any may have failures in a row to forget: without those nothing
#: looks at circuits.
_COMPLETIONS = {
    (follows, forgets): _COMPLETE_TEXT.replace("/* queued */", _QUEUED if follows else "").replace(
        "/* forgotten */", _FORGOTTEN if forgets else ""
    )
    for follows in (False, True)
    for forgets in (False, True)
}


def start(database: Database, step_id: str, *, worker_id: str, slot: int) -> OwnedAttempt | None:
    """Make this worker the step's owner; None when something is out of the ordinary, and nothing was written.

    Raises:
        IntegrityError: the slot is taken.
        Unavailable, CommitUnknown: as `Database.run_together`.
    """
    known = {"step_id": step_id, "worker_id": worker_id, "slot": slot, "attempt_id": new_id()}
    row = database.run_together(_start_of, known)
    if row is None:
        return None
    times = {name: _time(row[name]) for name in ("created_at", "job_started_at")}
    return owned_of({**row, **times})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _start_of(_: Sequence[Mapping[str, Any]]) -> str:
    return _START


def owned_of(row: Mapping[str, Any]) -> OwnedAttempt:
    """What an attempt carries, from an object of `_START`, but for times, which are no texts any more."""
    following = None
    if row["next_id"] is not None:
        following = Dispatch(
            row["next_id"],
            row["account"],
            row["pipeline"],
            row["next_name"],
            row["next_lane"],
            row["priority"],
            row["sequence"],
            None,
        )
    job = {
        "id": row["job_id"],
        "account": row["account"],
        "status": row["job_status"],
        "input": row["input"],
        "tags": row["tags"],
        "approval": row["approval"],
        "callback_url": row["callback_url"],
        "created_at": row["created_at"],
        "started_at": row["job_started_at"],
        "cancel_requested_at": None,
    }
    return OwnedAttempt(
        step_id=row["id"],
        job_id=row["job_id"],
        account=row["account"],
        pipeline=row["pipeline"],
        name=row["name"],
        lane=row["lane"],
        position=row["position"],
        run_token=row["run_token"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        lost=row["lost"],
        required=row["required"],
        job=job,
        outputs=row["outputs"] or {},
        deadline_seconds=row["deadline_left"],
        following=following,
        following_awaits_approval=bool(row["approval"]) and following is not None and not row["more_follow"],
        after_failures=may_have_failures(row["circuit_failures"], row["concurrency"]),
    )


def complete(database: Database, owned: OwnedAttempt, output: dict[str, Any]) -> bool:
    """As `outcomes.complete`, but for a best-effort step that is the job's last (its result is another step's).

    False when something is out of the ordinary, and nothing was written.

    Raises:
        Unavailable, CommitUnknown: as `Database.run_together`.
    """
    return database.run_together(_completion_of, ending_of(owned, output)) is not None


def ending_of(owned: OwnedAttempt, output: dict[str, Any]) -> dict[str, Any]:
    """A step that completes, as statements are given it: texts, whole numbers and truth values."""
    following = owned.following
    return {
        "step_id": owned.step_id,
        "job_id": owned.job_id,
        "account": owned.account,
        "lane": owned.lane,
        "run_token": owned.run_token,
        "output": json.dumps(output),
        "step_data": json.dumps({"step": owned.name, "status": "completed", "attempt": owned.attempt}),
        "job_status": owned.status_after,
        "next_id": "" if following is None else following.id,
        "next_name": "" if following is None else following.name,
        "forgets": owned.after_failures,
    }


def _completion_of(items: Sequence[Mapping[str, Any]]) -> str:
    return _COMPLETIONS[any(item["next_id"] for item in items), any(item["forgets"] for item in items)]
