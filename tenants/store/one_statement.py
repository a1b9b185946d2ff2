"""The ordinary start and end of a step on PostgreSQL: each in one statement, and so in one round trip.

What `steps.start` and `outcomes.complete` do in six round trips, for the case that nothing stands in the way. Whatever
is out of the ordinary (a pause, a deadline that has passed, a cancelled job, limits over all lanes) matches no row
here; then the caller takes the long way, which says what it was. Together these round trips were most of a short
step's time.

Invariants: as in `steps` and `outcomes`. One statement is one transaction: all of it takes effect, or nothing. The
job's row is locked first, by the part that the others read from; a row that changed meanwhile is looked at again.
"""

from __future__ import annotations

import json
from typing import Any

from ..database import Database
from ..models import new_id
from .dispatch import Dispatch
from .steps import Owned, lost_ownership, may_have_failures

_START = """
WITH found AS MATERIALIZED (
    SELECT s.id, s.job_id, s.account, s.pipeline, s.name, s.lane, s.position, s.run_token AS seen_token,
           s.max_attempts, s.lost, s.required, s.priority, s.sequence,
           j.status AS job_status, j.input, j.tags, j.approval, j.callback_url, j.created_at,
           j.started_at AS job_started_at,
           CASE WHEN j.started_at IS NULL THEN j.deadline_seconds
                ELSE EXTRACT(EPOCH FROM (j.deadline_at - clock_timestamp()))::double precision END AS deadline_left,
           n.id AS next_id, n.name AS next_name, n.lane AS next_lane,
           EXISTS (SELECT 1 FROM steps f WHERE f.job_id = s.job_id AND f.position > n.position) AS more_follow,
           coalesce((a.limits -> 'lanes' -> s.lane ->> 'concurrency')::int, 1) AS concurrency,
           c.failures AS circuit_failures,
           CASE WHEN s.position = 0 THEN NULL
                ELSE (SELECT json_object_agg(b.name, b.output) FROM steps b
                      WHERE b.job_id = s.job_id AND b.position < s.position AND b.status = 'completed')
           END AS outputs
    FROM steps s
    JOIN jobs j ON j.id = s.job_id
    JOIN accounts a ON a.id = s.account
    LEFT JOIN steps n ON n.job_id = s.job_id AND n.position = s.position + 1
    LEFT JOIN circuits c ON c.account = s.account AND c.lane = s.lane
    WHERE s.id = %(step_id)s::varchar
      AND s.status IN ('queued', 'retrying')
      AND (s.due_at IS NULL OR s.due_at <= clock_timestamp())
      AND j.finished_at IS NULL AND j.cancel_requested_at IS NULL
      AND (j.started_at IS NOT NULL OR j.expires_at IS NULL OR j.expires_at > clock_timestamp())
      AND (j.deadline_at IS NULL OR j.deadline_at > clock_timestamp())
      AND a.status NOT IN ('paused', 'suspended') AND (a.limits ->> 'account_concurrency') IS NULL
      AND NOT EXISTS (SELECT 1 FROM lanes l WHERE l.lane = s.lane AND l.paused)
      AND NOT EXISTS (SELECT 1 FROM tenant_queues q WHERE q.lane = s.lane AND q.account = s.account AND q.paused
                      AND (q.paused_until IS NULL OR q.paused_until > clock_timestamp()))
      AND c.opened_at IS NULL
    FOR UPDATE OF j
), taken AS (
    UPDATE steps SET status = 'running', run_token = steps.run_token + 1, attempt = steps.attempt + 1,
           slot = %(slot)s::int, worker_id = %(worker_id)s::varchar, started_at = clock_timestamp(), due_at = NULL,
           progress = 0, note = '', error = NULL
    FROM found
    WHERE steps.id = found.id AND steps.status IN ('queued', 'retrying') AND steps.run_token = found.seen_token
      AND %(slot)s::int + (SELECT count(*) FROM steps t
           WHERE t.lane = found.lane AND t.account = found.account AND t.status = 'running'
             AND t.slot > %(slot)s::int) < found.concurrency
    RETURNING steps.run_token, steps.attempt, steps.started_at
), noted AS (
    INSERT INTO attempts (id, step_id, job_id, account, lane, number, run_token, slot, worker, started_at)
    SELECT %(attempt_id)s::varchar, found.id, found.job_id, found.account, found.lane, taken.attempt, taken.run_token,
           %(slot)s::int, %(worker_id)s::varchar, taken.started_at
    FROM found, taken
), begun AS (
    UPDATE jobs SET status = 'running', current_step = found.name,
           started_at = coalesce(jobs.started_at, taken.started_at),
           deadline_at = CASE WHEN jobs.started_at IS NULL AND jobs.deadline_seconds IS NOT NULL
                              THEN clock_timestamp() + make_interval(secs => jobs.deadline_seconds)
                              ELSE jobs.deadline_at END
    FROM found, taken WHERE jobs.id = found.job_id
), told AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT found.account, found.job_id, 'status', '{"status": "running"}'::json, clock_timestamp()
    FROM found, taken WHERE found.job_status <> 'running'
    UNION ALL
    SELECT found.account, found.job_id, 'step',
           json_build_object('step', found.name, 'status', 'running', 'attempt', taken.attempt), clock_timestamp()
    FROM found, taken
)
SELECT found.*, taken.run_token, taken.attempt FROM found, taken
"""

_MOVED_ON = "SET status = %(job_status)s::varchar, current_step = %(next_name)s::varchar"
_ENDED = """SET status = 'completed', finished_at = clock_timestamp(), current_step = NULL, error = NULL,
           result = %(output)s::json"""
_QUEUED = """), queued AS (
    UPDATE steps SET status = %(next_status)s::varchar,
           queued_at = CASE WHEN %(next_status)s::varchar = 'queued' THEN clock_timestamp() ELSE steps.queued_at END
    FROM done WHERE steps.id = %(next_id)s::varchar AND steps.status = 'pending'"""


_COMPLETE_TEXT = """
WITH held AS MATERIALIZED (
    SELECT id FROM jobs WHERE id = %(job_id)s::varchar/* goes on */ FOR UPDATE
), done AS (
    UPDATE steps SET status = 'completed', output = %(output)s::json, progress = 100,
           finished_at = clock_timestamp(), slot = NULL, worker_id = NULL, error = NULL
    FROM held WHERE steps.id = %(step_id)s::varchar AND steps.status = 'running'
      AND steps.run_token = %(run_token)s::int
    RETURNING steps.id
), closed AS (
    UPDATE attempts SET outcome = 'completed', error = NULL, finished_at = clock_timestamp()
    FROM done WHERE attempts.step_id = done.id AND attempts.run_token = %(run_token)s::int
), moved AS (
    UPDATE jobs /* moved */ FROM done WHERE jobs.id = %(job_id)s::varchar AND jobs.finished_at IS NULL
/* queued *//* forgotten */
), told AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT %(account)s::varchar, %(job_id)s::varchar, 'step', %(step_data)s::json, clock_timestamp() FROM done
    UNION ALL
    SELECT %(account)s::varchar, %(job_id)s::varchar, 'status',
           json_build_object('status', %(job_status)s::varchar), clock_timestamp()
    FROM done
)
SELECT count(*) AS written FROM done
"""
_FORGOTTEN = """), forgotten AS (
    DELETE FROM circuits USING done WHERE circuits.account = %(account)s::varchar
      AND circuits.lane = %(lane)s::varchar AND circuits.opened_at IS NULL"""


#: A job that somebody wants cancelled does not go on; that is out of the ordinary.
_GOES_ON = " AND cancel_requested_at IS NULL"


def _completion(moved: str, queued: str, forgotten: str) -> str:
    text = _COMPLETE_TEXT.replace("/* moved */", moved).replace("/* queued */", queued)
    return text.replace("/* forgotten */", forgotten).replace("/* goes on */", _GOES_ON if queued else "")


#: By whether another step follows, and whether there may be failures in a row, which are over now: without those
#: nothing looks at circuits.
_COMPLETIONS = {
    (False, False): _completion(_ENDED, "", ""),
    (False, True): _completion(_ENDED, "", _FORGOTTEN),
    (True, False): _completion(_MOVED_ON, _QUEUED, ""),
    (True, True): _completion(_MOVED_ON, _QUEUED, _FORGOTTEN),
}


def start(database: Database, step_id: str, *, worker_id: str, slot: int) -> Owned | None:
    """Make this worker the step's owner; None when something is out of the ordinary, and nothing was written.

    Raises:
        IntegrityError: the slot is taken.
        Unavailable, CommitUnknown: as `Database.run_one`.
    """
    known = {"step_id": step_id, "worker_id": worker_id, "slot": slot, "attempt_id": new_id()}
    rows = database.run_one(_START, known)
    if not rows:
        return None
    return owned_of(rows[0])


def owned_of(row: Any) -> Owned:
    """What an attempt carries, from a row of `_START`."""
    following = None
    if row.next_id is not None:
        following = Dispatch(
            row.next_id, row.account, row.pipeline, row.next_name, row.next_lane, row.priority, row.sequence, None
        )
    job = {
        "id": row.job_id,
        "account": row.account,
        "status": row.job_status,
        "input": row.input,
        "tags": row.tags,
        "approval": row.approval,
        "callback_url": row.callback_url,
        "created_at": row.created_at,
        "started_at": row.job_started_at,
        "cancel_requested_at": None,
    }
    return Owned(
        step_id=row.id,
        job_id=row.job_id,
        account=row.account,
        pipeline=row.pipeline,
        name=row.name,
        lane=row.lane,
        position=row.position,
        run_token=row.run_token,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        lost=row.lost,
        required=row.required,
        job=job,
        outputs=row.outputs or {},
        deadline_seconds=row.deadline_left,
        following=following,
        following_awaits_approval=bool(row.approval) and following is not None and not row.more_follow,
        after_failures=may_have_failures(row.circuit_failures, row.concurrency),
    )


def complete(database: Database, owned: Owned, output: dict[str, Any]) -> Dispatch | None:
    """As `outcomes.complete`; not for a best-effort step that is the job's last (its result is another step's).

    Raises:
        OwnershipLost: another attempt owns the step, or the job does not go on although a step follows; nothing was
            written, and `outcomes.complete` tells which.
        Unavailable, CommitUnknown: as `Database.run_one`.
    """
    following = owned.following
    known: dict[str, Any] = {
        "step_id": owned.step_id,
        "job_id": owned.job_id,
        "account": owned.account,
        "run_token": owned.run_token,
        "output": json.dumps(output),
        "step_data": json.dumps({"step": owned.name, "status": "completed", "attempt": owned.attempt}),
        "job_status": "completed",
    }
    if following is None:
        if not owned.required:
            raise ValueError(f"step {owned.step_id} is best effort and its job's last; use outcomes.complete")
    else:
        known["next_id"], known["next_name"] = following.id, following.name
        known["next_status"] = known["job_status"] = (
            "awaiting_approval" if owned.following_awaits_approval else "queued"
        )
    if owned.after_failures:
        known["lane"] = owned.lane
    rows = database.run_one(_COMPLETIONS[following is not None, owned.after_failures], known)
    if not rows[0].written:
        raise lost_ownership(owned)
    return None if owned.following_awaits_approval else following
