"""Creates jobs, starts and completes steps on PostgreSQL: one statement for the calls of several threads.

The portable implementation takes five or six round trips for each call; here it is one for all. Each statement answers
for each call with a verdict. Where that is `None` below, the call needs more writes than the statement has, or has to
wait for a row that is locked elsewhere, and `job_store` runs it by the portable implementation.

Invariants, for each call by itself
- As in `create_jobs`, `start_steps` and `finish_steps`. A statement is a transaction: it takes effect whole or not.
- Each job's row is locked first, and what is decided about the job is read from the locked row. A job that is locked
  elsewhere is skipped, so two statements never wait for each other's jobs. The account's row is kept by a shared lock;
  if it was changed since the statement began, the step does not start here, because running steps were counted before.

The plans do not depend on the planner's idea of the tables' sizes. A plan is kept as long as the connection, and one
that was made while a table was new would read all of it for each step. So each table is looked up in a fenced subquery
(``LATERAL … OFFSET 0``), rows to write are named by ``= ANY`` beside the join, a status that has an index comes from a
row and not from a literal, and the planner does not see the arrays' lengths (it would plan each call anew).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from ..database.models import new_id
from ..database.postgres_statements import PreparedStatements
from ..database.transactions import Database
from .attempt import NotRunnable, OwnedAttempt, Refused
from .dispatch import Dispatch
from .jobs.create import Created, JobPlan, JobRows, job_row, rows_of
from .steps.start import Verdict, answer_to

_Item = Mapping[str, Any]
_Row = dict[str, Any]

_CREATE = """
WITH arrays AS MATERIALIZED (
    SELECT %(id)s::varchar[] AS ids, %(account)s::varchar[] AS accounts, %(pipeline)s::varchar[] AS pipelines,
           %(status)s::varchar[] AS statuses, %(priority)s::int[] AS priorities, %(input)s::text[] AS inputs,
           %(approval)s::boolean[] AS approvals, %(expires_in)s::double precision[] AS expiries,
           %(deadline_seconds)s::double precision[] AS deadlines, %(tags)s::text[] AS tag_lists,
           %(callback_url)s::varchar[] AS callback_urls, %(steps)s::text[] AS step_lists
), given AS MATERIALIZED (
    SELECT g.*, now.time AS now, CASE WHEN j.exists THEN 'exists' ELSE a.verdict END AS verdict
    FROM arrays, unnest(ids, accounts, pipelines, statuses, priorities, inputs, approvals, expiries, deadlines,
                        tag_lists, callback_urls, step_lists)
        WITH ORDINALITY AS g(id, account, pipeline, status, priority, input, approval, expires_in, deadline_seconds,
                             tags, callback_url, steps, place)
    CROSS JOIN (SELECT clock_timestamp() AS time OFFSET 0) now
    LEFT JOIN LATERAL (
        SELECT CASE WHEN o.status IN ('draining', 'suspended') THEN o.status
                    WHEN (o.limits ->> 'max_waiting') IS NOT NULL OR (o.limits ->> 'daily_quota') IS NOT NULL
                    THEN 'limited'
                    ELSE 'created' END AS verdict
        FROM accounts o WHERE o.id = g.account OFFSET 0
    ) a ON true
    LEFT JOIN LATERAL (SELECT true AS exists FROM jobs o WHERE o.id = g.id OFFSET 0) j ON true
), admitted AS MATERIALIZED (
    SELECT * FROM given WHERE verdict = 'created' ORDER BY place
), counted AS (
    INSERT INTO usage (account, day, jobs, seconds, tokens, posts, bytes)
    SELECT account, to_char(now AT TIME ZONE 'UTC', 'YYYY-MM-DD'), count(*), 0, 0, 0, 0
    FROM admitted GROUP BY 1, 2 ORDER BY 1
    ON CONFLICT (account, day) DO UPDATE SET jobs = usage.jobs + excluded.jobs
), made AS (
    INSERT INTO jobs (id, account, pipeline, status, priority, input, approval, run_at, created_at, expires_at,
                      deadline_seconds, tags, callback_url)
    SELECT id, account, pipeline, status, priority, input::json, approval, now, now,
           now + make_interval(secs => expires_in), deadline_seconds, tags::jsonb, callback_url
    FROM admitted ORDER BY place RETURNING id, account, pipeline, status, priority, seq, created_at, expires_at
), stepped AS (
    INSERT INTO steps (id, job_id, account, pipeline, position, name, lane, status, required, priority, sequence,
                       attempt, max_attempts, lost, run_token, progress, note, queued_at)
    SELECT step.id, made.id, made.account, made.pipeline, step.position, step.name, step.lane, step.status,
           step.required, made.priority, made.seq, 0, step.max_attempts, 0, 0, 0, '',
           CASE WHEN step.status = 'queued' THEN made.created_at END
    FROM admitted JOIN made ON made.id = admitted.id
    CROSS JOIN LATERAL json_populate_recordset(NULL::steps, admitted.steps::json) AS step
), noted AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT account, id, 'status', json_build_object('status', status), clock_timestamp() FROM made
)
SELECT json_agg(answer) FROM (
    SELECT given.place, given.verdict, made.seq, made.created_at, made.expires_at
    FROM given LEFT JOIN made ON made.id = given.id
) AS answer
"""

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
           a.status AS account_status, a.concurrency, c.failures AS circuit_failures, c.circuit_left,
           CASE WHEN s.position = 0 THEN NULL
                ELSE (SELECT json_object_agg(b.name, b.output) FROM steps b
                      WHERE b.job_id = s.job_id AND b.position < s.position AND b.status = 'completed')
           END AS outputs,
           CASE
               WHEN s.status = 'running' THEN 'running'
               WHEN s.status NOT IN ('queued', 'retrying') THEN 'ended'
               WHEN j.job_status IS NULL THEN 'locked'
               WHEN j.job_finished_at IS NOT NULL THEN 'job_ended'
               WHEN j.is_over THEN 'must_end'
               WHEN j.approval AND n.id IS NULL THEN 'must_be_approved'
               WHEN s.due_in > 0.005 THEN 'not_due'
               WHEN (SELECT l.paused FROM lanes l WHERE l.lane = s.lane)
                    OR (SELECT q.paused AND (q.paused_until IS NULL OR q.paused_until > clock_timestamp())
                        FROM tenant_queues q WHERE q.lane = s.lane AND q.account = s.account) THEN 'queue_paused'
               WHEN c.opened_at IS NOT NULL AND c.circuit_left > 0 THEN 'circuit_open'
               WHEN c.opened_at IS NOT NULL THEN 'needs_canary'
               WHEN k.kept IS NULL THEN 'locked'
               WHEN a.status IN ('paused', 'suspended') THEN 'account_stopped'
               WHEN g.slot >= a.concurrency THEN 'beyond_concurrency'
               WHEN a.is_limited THEN 'account_limited'
               WHEN r.is_taken THEN 'slot_taken'
               WHEN g.slot + r.higher >= a.concurrency THEN 'queue_full'
               ELSE 'started'
           END AS verdict
    FROM given g
    CROSS JOIN LATERAL (
        SELECT t.id, t.job_id, t.account, t.pipeline, t.name, t.lane, t.position, t.status, t.run_token AS seen_token,
               t.max_attempts, t.lost, t.required, t.priority, t.sequence,
               EXTRACT(EPOCH FROM (t.due_at - clock_timestamp()))::double precision AS due_in
        FROM steps t WHERE t.id = g.step_id OFFSET 0
    ) s
    CROSS JOIN LATERAL (
        SELECT o.status, o.updated_at,
               coalesce((o.limits -> 'lanes' -> s.lane ->> 'concurrency')::int, 1) AS concurrency,
               (o.limits ->> 'account_concurrency') IS NOT NULL AS is_limited
        FROM accounts o WHERE o.id = s.account OFFSET 0
    ) a
    LEFT JOIN LATERAL (
        SELECT t.id, t.name, t.lane, t.position FROM steps t
        WHERE t.job_id = s.job_id AND t.position = s.position + 1 OFFSET 0
    ) n ON true
    LEFT JOIN LATERAL (
        SELECT o.failures, o.opened_at,
               EXTRACT(EPOCH FROM (o.until - clock_timestamp()))::double precision AS circuit_left
        FROM circuits o WHERE o.account = s.account AND o.lane = s.lane OFFSET 0
    ) c ON true
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE t.slot > g.slot) AS higher,
               coalesce(bool_or(t.slot = g.slot), false) AS is_taken
        FROM steps t
        WHERE t.lane = s.lane AND t.account = s.account AND t.status = 'running' AND t.slot >= g.slot OFFSET 0
    ) r
    LEFT JOIN LATERAL (
        SELECT o.status AS job_status, o.finished_at AS job_finished_at, o.input, o.tags, o.approval, o.callback_url,
               o.created_at, o.started_at AS job_started_at,
               o.cancel_requested_at IS NOT NULL OR coalesce(o.deadline_at <= clock_timestamp(), false)
               OR (o.started_at IS NULL AND coalesce(o.expires_at <= clock_timestamp(), false)) AS is_over,
               CASE WHEN o.started_at IS NULL THEN o.deadline_seconds
                    ELSE EXTRACT(EPOCH FROM (o.deadline_at - clock_timestamp()))::double precision END AS deadline_left
        FROM jobs o WHERE o.id = s.job_id OFFSET 0 FOR UPDATE SKIP LOCKED
    ) j ON true
    LEFT JOIN LATERAL (
        SELECT true AS kept FROM accounts o WHERE o.id = s.account AND o.updated_at = a.updated_at
        OFFSET 0 FOR KEY SHARE SKIP LOCKED
    ) k ON true
), taken AS (
    UPDATE steps SET status = 'running', run_token = steps.run_token + 1, attempt = steps.attempt + 1,
           slot = found.slot, worker_id = found.worker_id, started_at = clock_timestamp(), due_at = NULL,
           progress = 0, note = '', error = NULL
    FROM found
    WHERE found.verdict = 'started'
      AND steps.id = found.id AND steps.id = ANY (ARRAY(SELECT step_id FROM given))
      AND steps.status = found.status AND steps.run_token = found.seen_token
    RETURNING found.place, steps.run_token, steps.attempt, steps.started_at
), owned AS MATERIALIZED (
    SELECT found.*, taken.run_token, taken.attempt, taken.started_at FROM found JOIN taken ON taken.place = found.place
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
), happened AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT account, job_id, 'status', '{"status": "running"}'::json, clock_timestamp()
    FROM owned WHERE job_status <> 'running'
    UNION ALL
    SELECT account, job_id, 'step',
           json_build_object('step', name, 'status', 'running', 'attempt', attempt), clock_timestamp()
    FROM owned
)
SELECT json_agg(answer) FROM (
    SELECT found.*, taken.run_token, taken.attempt FROM found LEFT JOIN taken ON taken.place = found.place
) AS answer
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
    SELECT g.*, CASE WHEN j.is_cancelled IS NULL THEN 'locked'
                     WHEN j.is_cancelled AND g.next_id <> '' THEN 'must_end'
                     ELSE 'completed' END AS verdict
    FROM given g
    LEFT JOIN LATERAL (
        SELECT o.cancel_requested_at IS NOT NULL AS is_cancelled FROM jobs o WHERE o.id = g.job_id
        OFFSET 0 FOR UPDATE SKIP LOCKED
    ) j ON true
), done AS (
    UPDATE steps SET status = 'completed', output = held.output::json, progress = 100,
           finished_at = clock_timestamp(), slot = NULL, worker_id = NULL, error = NULL
    FROM held WHERE held.verdict = 'completed' AND steps.id = held.step_id
      AND steps.id = ANY (ARRAY(SELECT step_id FROM given))
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
), happened AS (
    INSERT INTO events (account, job_id, type, data, created_at)
    SELECT account, job_id, 'step', step_data::json, clock_timestamp() FROM done
    UNION ALL
    SELECT account, job_id, 'status', json_build_object('status', job_status), clock_timestamp() FROM done
)
SELECT json_agg(answer) FROM (
    SELECT held.place,
           CASE WHEN held.verdict = 'completed' AND done.place IS NULL THEN 'not_owned' ELSE held.verdict END AS verdict
    FROM held LEFT JOIN done ON done.place = held.place
) AS answer
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
#: Verdicts of a start that need more writes, or a lock that another transaction holds.
_NOT_DECIDED = frozenset({"locked", "must_end", "must_be_approved", "needs_canary", "account_limited"})
#: In the rows of a new job until the database has given the time.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def may_create(plan: JobPlan) -> bool:
    """Whether the statement has what the job needs: it may start at once, and has no unique key."""
    return plan.unique_key is None and plan.run_at is None and not plan.delay and plan.ended_job_id is None


def create(database: Database, account: str, plan: JobPlan) -> Created | None:
    """Create a job; None if the account is new, takes no jobs or has limits, or if the job exists.

    Raises:
        IntegrityError: the job was created, or the account deleted, at this moment.
        Unavailable, CommitUnknown: as `Database.batch`.
    """
    job = job_row(account, plan, _NO_TIME)
    rows = rows_of(job, plan, 0, _NO_TIME)
    written = ("id", "position", "name", "lane", "status", "required", "max_attempts")
    answer = database.batch(
        _create_all,
        {
            **{name: job[name] for name in ("id", "account", "pipeline", "status", "priority", "approval")},
            "input": json.dumps(job["input"]),
            "expires_in": plan.expires_in,
            "deadline_seconds": plan.deadline,
            "tags": json.dumps(job["tags"]),
            "callback_url": plan.callback_url,
            "steps": json.dumps([{name: step[name] for name in written} for step in rows.steps]),
        },
    )
    if answer is None or answer["verdict"] != "created":
        return None
    sequence, now = answer["seq"], _time(answer["created_at"])
    times = {"seq": sequence, "run_at": now, "created_at": now, "expires_at": _time(answer["expires_at"])}
    steps = [
        {**step, "sequence": sequence, "queued_at": now if step["status"] == "queued" else None} for step in rows.steps
    ]
    queued = tuple(Dispatch.of(step) for step in steps if step["status"] == "queued")
    return Created((JobRows({**rows.job, **times}, steps),), frozenset((plan.id,)), queued)


def start(
    database: Database, step_id: str, *, worker_id: str, slot: int
) -> OwnedAttempt | Refused | NotRunnable | None:
    """Make this worker the step's owner, or say why not; None if the portable implementation has to decide.

    Raises:
        IntegrityError: the slot was taken at this moment.
        Unavailable, CommitUnknown: as `Database.batch`.
    """
    row = database.batch(_start_all, {"step_id": step_id, "worker_id": worker_id, "slot": slot, "attempt_id": new_id()})
    if row is None:
        return NotRunnable("the step does not exist")
    verdict = row["verdict"]
    if verdict in _NOT_DECIDED:
        return None
    if verdict != "started":
        return answer_to(cast("Verdict", verdict), row, slot)
    if row["run_token"] is None:  # another start took it at this moment
        return answer_to("running", row, slot)
    job = {
        "id": row["job_id"],
        "account": row["account"],
        "status": row["job_status"],
        "input": row["input"],
        "tags": row["tags"],
        "approval": row["approval"],
        "callback_url": row["callback_url"],
        "created_at": _time(row["created_at"]),
        "started_at": _time(row["job_started_at"]),
        "cancel_requested_at": None,
    }
    return OwnedAttempt.of(row, job)


def may_complete(owned: OwnedAttempt) -> bool:
    """Whether the statement does all that completing the step needs.

    It closes no circuit, calls no webhook, and takes a job's result from no other step.
    """
    if owned.canary:
        return False
    return owned.following is not None or (owned.required and owned.job["callback_url"] is None)


def complete(database: Database, owned: OwnedAttempt, output: dict[str, Any]) -> bool:
    """Keep the output, and queue the next step; False if the portable implementation has to do it.

    Raises:
        OwnershipLost: another attempt owns the step; nothing was written.
        Unavailable, CommitUnknown: as `Database.batch`.
    """
    following = owned.following
    answer = database.batch(
        _complete_all,
        {
            "step_id": owned.step_id,
            "job_id": owned.job_id,
            "account": owned.account,
            "lane": owned.lane,
            "run_token": owned.run_token,
            "output": json.dumps(output),
            "step_data": json.dumps(owned.step_event("completed").data),
            "job_status": owned.status_after,
            "next_id": "" if following is None else following.id,
            "next_name": "" if following is None else following.name,
            "forgets": owned.after_failures,
        },
    )
    if answer is not None and answer["verdict"] == "not_owned":
        raise owned.ownership_lost()
    return answer is not None and answer["verdict"] == "completed"


def _create_all(statements: PreparedStatements, items: Sequence[_Item]) -> list[_Row | None]:
    return statements.run_over(_CREATE, items)


def _start_all(statements: PreparedStatements, items: Sequence[_Item]) -> list[_Row | None]:
    return statements.run_over(_START, items)


def _complete_all(statements: PreparedStatements, items: Sequence[_Item]) -> list[_Row | None]:
    wanted = any(item["next_id"] for item in items), any(item["forgets"] for item in items)
    return statements.run_over(_COMPLETIONS[wanted], items)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
