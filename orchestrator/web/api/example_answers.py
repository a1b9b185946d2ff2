"""An example answer for each model, written by hand.

`tests/orchestrator/web/test_examples.py` compares each with its schema.

In all of them, account `acme` has a post about bees written and published. A model may also carry its example itself,
as `json_schema_extra={"examples": […]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..http import models as base
from .check import Checked
from .models import accounts, admin, alerts, drafts, jobs, schedules, webhooks
from .operations import Alive, Ready
from .reconcile import Reconciled

JOB_ID = "0199c0de-51a0-7c31-9a6f-0c1f2d3e4a5b"
DRAFT_ID = "0199c0de-6b10-7d02-8f11-1a2b3c4d5e6f"
LETTER_ID = "0199c0df-0e2c-7a44-b7c8-9d0e1f2a3b4c"
SCHEDULE_ID = "0199c0aa-77f0-7b1e-8a90-3c4d5e6f7a8b"
KEY_ID = "0199c0a1-2b3c-7d4e-9f50-6a7b8c9d0e1f"
STEP_ID = "0199c0de-51a1-7e02-8b3c-4d5e6f7a8b9c"
PUBLICATION_ID = "0199c0de-9c20-7f13-a4d5-e6f7a8b9c0d1"
DELIVERY_ID = "0199c0df-1a00-7c55-9e6f-708192a3b4c5"

_MADE, _BEGAN, ENDED = "2026-11-21T09:00:00.000000Z", "2026-11-21T09:00:00.250000Z", "2026-11-21T09:00:48.500000Z"
_ATTEMPT = {
    "number": 1,
    "worker": "worker-1",
    "started_at": _BEGAN,
    "finished_at": ENDED,
    "outcome": "completed",
    "error": None,
}
_FAILED_ATTEMPT = {
    **_ATTEMPT,
    "outcome": "failed",
    "error": {"code": "publish_failed", "message": "the editor's publish button stayed disabled"},
}
_SUMMARY: dict[str, Any] = {
    "id": JOB_ID,
    "account": "acme",
    "pipeline": "blog",
    "status": "running",
    "priority": 3,
    "error": None,
    "progress": 50,
    "current_step": "publish",
    "failed_step": None,
    "cancel_requested_at": None,
    "queue_position": None,
    "estimated_wait": None,
    "run_at": _MADE,
    "created_at": _MADE,
    "started_at": _BEGAN,
    "finished_at": None,
    "expires_at": None,
    "deadline_at": None,
    "unique_key": "bees-2026-11",
    "tags": ["spring-campaign"],
    "callback_url": None,
}
_STEP: dict[str, Any] = {
    "id": STEP_ID,
    "name": "generate",
    "lane": "generate",
    "status": "completed",
    "required": True,
    "attempt": 1,
    "max_attempts": 3,
    "progress": 100,
    "note": "",
    "queued_at": _MADE,
    "started_at": _BEGAN,
    "finished_at": ENDED,
    "output": {"draft_id": DRAFT_ID},
    "error": None,
    "attempts": [_ATTEMPT],
}
_DRAFT = {
    "id": DRAFT_ID,
    "account": "acme",
    "job_id": JOB_ID,
    "title": "Keeping bees on a roof",
    "body": "Bees do well in a town…",
    "tags": ["bees"],
    "status": "published",
    "version": 2,
    "created_at": ENDED,
    "publication": {
        "id": PUBLICATION_ID,
        "publisher": "wordpress",
        "status": "confirmed",
        "url": "https://blog.example.com/2026/11/bees",
        "external_id": "1184",
        "published_at": ENDED,
    },
}
_SCHEDULE: dict[str, Any] = {
    "id": SCHEDULE_ID,
    "account": "acme",
    "name": "weekday mornings",
    "pipeline": "blog",
    "cron": "0 9 * * 1-5",
    "every": None,
    "at": None,
    "spread": None,
    "inputs_left": None,
    "timezone": "Europe/Berlin",
    "jitter": 600.0,
    "approval": False,
    "callback_url": None,
    "priority": 5,
    "tags": [],
    "overlap": "skip",
    "catch_up": "one",
    "starts_at": _MADE,
    "ends_at": None,
    "enabled": True,
    "next_fire_at": "2026-11-23T08:04:11.000000Z",
    "last_fire_at": None,
    "created_at": _MADE,
    "updated_at": _MADE,
}
_LIMITS = {
    "weight": 2,
    "account_concurrency": None,
    "max_waiting": 1000,
    "daily_quota": None,
    "lanes": {"publish": {"concurrency": 1, "rate": {"limit": 10, "per": 3600.0}, "ordering": "strict"}},
}
_TARGET = {"publisher": "wordpress", "base_url": "https://blog.example.com", "options": {}}
_SESSION = {"status": "ready", "updated_at": _MADE, "expires_at": None}
_DAY = {"day": "2026-11-21", "jobs": 12, "seconds": 410.5, "tokens": 18240, "posts": 11, "bytes": 0}
_ACCOUNT = {"account": "acme", "status": "active", "created_at": _MADE, "updated_at": _MADE}
_KEY = {
    "id": KEY_ID,
    "scope": "account",
    "account": "acme",
    "name": "shop backend",
    "hint": "olk_…x9Qz",
    "created_at": _MADE,
    "expires_at": None,
    "last_used_at": None,
}
_QUEUE = {
    "lane": "publish",
    "account": "acme",
    "queue": "publish_acme",
    "waiting": 3,
    "active": 1,
    "delayed": 0,
    "last_used_at": ENDED,
    "paused": False,
    "circuit": None,
}
_CIRCUIT = {"status": "open", "failures": 5, "opened_at": ENDED, "until": "2026-11-21T09:05:48.500000Z"}
_LETTER = {
    "id": LETTER_ID,
    "account": "acme",
    "lane": "publish",
    "pipeline": "blog",
    "actor": "blog.publish",
    "job_id": JOB_ID,
    "step_id": STEP_ID,
    "error_code": "publish_failed",
    "error": _FAILED_ATTEMPT["error"],
    "attempt_count": 3,
    "created_at": ENDED,
    "resolution": None,
    "resolved_at": None,
}
_RUNNING = {
    "step_id": STEP_ID,
    "job_id": JOB_ID,
    "account": "acme",
    "lane": "publish",
    "step": "publish",
    "started_at": _BEGAN,
}
_PIPELINE_STEP = {
    "name": "publish",
    "lane": "publish",
    "time_limit": 300.0,
    "max_attempts": 3,
    "backoff": [2.0, 300.0],
    "isolation": "process",
    "effect": "irreversible",
    "required": True,
}
_SECRET = {"created_at": _MADE, "previous_until": "2026-11-22T09:00:00.000000Z"}
PARTS = {"database": "ok", "redis": "ok", "workers": "ok"}

#: The answer of a call, by its model.
ANSWERS: Mapping[Any, Any] = {
    jobs.JobSummary: _SUMMARY,
    jobs.JobView: {
        **_SUMMARY,
        "input": jobs.JOB_EXAMPLE["input"],
        "result": None,
        "steps": [
            _STEP,
            {
                **_STEP,
                "id": "0199c0de-51a2-7c40-9d5e-6f708192a3b4",
                "name": "publish",
                "lane": "publish",
                "status": "running",
                "progress": 30,
                "note": "signing in",
                "finished_at": None,
                "output": None,
                "attempts": [{**_ATTEMPT, "finished_at": None, "outcome": None}],
            },
        ],
    },
    jobs.WhyItem: {"code": "behind_other_jobs", "message": "3 jobs of this tenant queue go first", "count": 3},
    jobs.ArtifactView: {
        "name": "screenshot.png",
        "content_type": "image/png",
        "size": 48213,
        "url": f"/v1/artifacts/{PUBLICATION_ID}?expires=1795252800&signature=4f9a0c…",
        "step": "publish",
        "created_at": ENDED,
    },
    webhooks.DeliveryView: {
        "id": DELIVERY_ID,
        "type": "job.ended",
        "job_status": "completed",
        "url": "https://shop.example.com/hooks/onelane",
        "status": "completed",
        "superseded": False,
        "created_at": ENDED,
        "finished_at": ENDED,
        "next_attempt_at": None,
        "error": None,
        "dead_letter_id": None,
        "attempts": [
            {
                "number": 1,
                "started_at": ENDED,
                "finished_at": ENDED,
                "seconds": 0.21,
                "outcome": "completed",
                "status_code": 204,
                "error": None,
            }
        ],
    },
    webhooks.WebhookSecretView: _SECRET,
    webhooks.NewWebhookSecretView: {**_SECRET, "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"},
    drafts.DraftView: _DRAFT,
    drafts.PublicationView: _DRAFT["publication"],
    schedules.ScheduleSummary: _SCHEDULE,
    schedules.ScheduleView: {**_SCHEDULE, "input": schedules.EXAMPLE["input"], "inputs": None},
    schedules.FireView: {
        "fire_at": _MADE,
        "outcome": "fired",
        "job_id": JOB_ID,
        "error": None,
        "created_at": _MADE,
    },
    base.Time: "2026-11-23T08:04:11.000000Z",
    accounts.AccountSummary: _ACCOUNT,
    accounts.AccountView: {
        **_ACCOUNT,
        "limits": _LIMITS,
        "lanes": [{**{name: _QUEUE[name] for name in _QUEUE if name != "account"}, "oldest_wait": 12.5}],
        "session": _SESSION,
        "target": _TARGET,
        "usage": {"today": _DAY, "days": [_DAY]},
    },
    accounts.LimitsView: _LIMITS,
    accounts.TargetView: _TARGET,
    accounts.SessionView: _SESSION,
    accounts.KeyView: _KEY,
    accounts.NewKeyView: {**_KEY, "key": "olk_4mUq1hV0a7sR2dLz8fKc3tXw6yBn9eJpGi5oTvQx9Qz"},
    admin.QueueView: _QUEUE,
    admin.QueueDeleted: {"cancelled": 3, "deleted": True},
    admin.Reaped: {"reaped": 1, "queues": [{"lane": "publish", "account": "acme", "queue": "publish_acme"}]},
    admin.LaneView: {
        "lane": "publish",
        "paused": False,
        "global_concurrency": 20,
        "waiting": 120,
        "active": 8,
        "delayed": 4,
        "ready_accounts": 31,
        "queues": 44,
        "oldest_wait": 61.2,
    },
    admin.AccountLoadView: {"account": "acme", "seconds": 412.5, "waiting": 37, "share": 0.62},
    admin.LaneWideLimitsView: {"global_concurrency": 20},
    admin.DeadLetterSummary: _LETTER,
    admin.DeadLetterView: {
        **_LETTER,
        "message": {"actor": "blog.publish", "args": [STEP_ID]},
        "traceback": "Traceback (most recent call last): …",
        "attempts": [_FAILED_ATTEMPT],
    },
    admin.Resolved: {"matched": 2, "resolved": 1, "skipped": 1, "left": 0, "stopped": None, "ids": [LETTER_ID]},
    admin.WorkerView: {
        "id": "worker-1",
        "host": "node-3",
        "pid": 4211,
        "lanes": ["generate", "publish"],
        "threads": 8,
        "busy": 1,
        "started_at": "2026-11-20T06:00:00.000000Z",
        "heartbeat_at": ENDED,
        "running": [_RUNNING],
    },
    admin.PipelineView: {
        "name": "blog",
        "description": "Write a post and publish it.",
        "lanes": ["generate", "publish"],
        "steps": [_PIPELINE_STEP],
        "input_schema": {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
    },
    alerts.AlertView: {
        "id": DELIVERY_ID,
        "kind": "dead_letter",
        "account": "acme",
        "state": "resting",
        "occurrences": 42,
        "told": 1,
        "details": {
            "lane": "publish",
            "pipeline": "blog",
            "step": "publish",
            "error_code": "publish_failed",
            "job_id": JOB_ID,
            "dead_letter_id": LETTER_ID,
        },
        "commands": ["onelane dead-letters list --account acme", f"onelane dead-letters replay {LETTER_ID}"],
        "first_at": _BEGAN,
        "last_at": ENDED,
        "sent_at": _BEGAN,
        "due_at": "2026-11-21T09:15:00.250000Z",
    },
    alerts.OpenCircuitView: {
        **_CIRCUIT,
        "lane": "publish",
        "account": "acme",
        "queue": "publish_acme",
        "cooldown": 300.0,
    },
    alerts.AlertsTested: {"items": [{"position": 1, "kind": "slack", "delivered": True}]},
    admin.AuditView: {
        "id": 17,
        "at": _MADE,
        "actor": "admin:admin",
        "address": "192.0.2.7",
        "action": "PUT /v1/accounts/{account}/limits",
        "target": "/v1/accounts/acme/limits",
        "details": {"after": {"weight": 2}},
    },
    Checked: {
        "lanes": ["generate", "publish"],
        "violations": 1,
        "items": [
            {"lane": "publish", "kind": "lease_without_message", "account": "acme", "detail": "a slot was released"}
        ],
    },
    Reconciled: {"requeued": 0, "released": 1, "orphaned": 0},
    Alive: {"status": "ok"},
    Ready: {"status": "ok", "parts": PARTS},
}
