"""Signed webhook calls, and the log of a job's deliveries.

`tenants.store.jobs.webhook_deliveries` creates the deliveries; `actors.pipelines.webhook` calls the receiver.

Invariant: the body is derived from rows that do not change while the job is ended, so each try sends the same. The
`webhook-id` is the delivery's id, the same over tries and replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from tenants.database.transactions import Database
from tenants.secrets.webhook_secrets import WebhookSecrets
from tenants.store.jobs import read as job_store
from tenants.store.jobs import webhook_deliveries

from ..json_text import to_json
from .jobs import Jobs

#: The only type of event so far.
EVENT_TYPE = "job.ended"


class Webhooks:
    """See the module's docstring."""

    def __init__(self, database: Database, jobs: Jobs, secrets: WebhookSecrets) -> None:
        self._database = database
        self._jobs = jobs
        self._secrets = secrets

    def signed_call(self, delivery_id: str, account: str) -> dict[str, Any] | None:
        """`{url, headers, body}`, signed by Standard Webhooks; None when the delivery is superseded.

        Raises:
            SecretsError: the account's secret cannot be opened.
        """

        def read(connection: Connection) -> dict[str, Any] | None:
            ended = webhook_deliveries.ended_job(connection, delivery_id)
            return None if ended is None else self._jobs.view(connection, ended["id"], account)

        job = self._database.read(read)
        if job is None:
            return None
        body = to_json({"type": EVENT_TYPE, "timestamp": job["finished_at"], "data": job}).decode()
        now = datetime.now(UTC)
        headers = {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._secrets.signatures(account, delivery_id, now, body),
        }
        return {"url": job["callback_url"], "headers": headers, "body": body}

    def log(self, job_id: str, account: str | None) -> list[dict[str, Any]]:
        """A job's deliveries with their attempts, oldest first. `account` None stands for an admin.

        Raises:
            NotFound: no such job, or not this account's.
        """

        def read(connection: Connection) -> list[dict[str, Any]]:
            url = job_store.fetch(connection, job_id, account)["callback_url"]
            rows = webhook_deliveries.of_job(connection, job_id)
            tries = webhook_deliveries.attempts_of(connection, [row["id"] for row in rows])
            return [_view(row, url, [each for each in tries if each["job_id"] == row["id"]]) for row in rows]

        return self._database.read(read)


def _view(row: Mapping[Any, Any], url: str, tries: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "type": EVENT_TYPE,
        "job_status": row["input"]["status"],
        "url": url,
        "status": row["status"],
        "superseded": bool((row["step_output"] or {}).get("superseded")),
        "created_at": row["created_at"],
        "finished_at": row["finished_at"],
        "next_attempt_at": row["step_due_at"] if row["finished_at"] is None else None,
        "error": row["error"],
        "dead_letter_id": row["dead_letter_id"],
        "attempts": [_try(each) for each in tries],
    }


def _try(row: Mapping[Any, Any]) -> dict[str, Any]:
    names = ("number", "started_at", "finished_at", "outcome", "status_code", "error")
    ended = row["finished_at"]
    seconds = None if ended is None else round((ended - row["started_at"]).total_seconds(), 3)
    return {**{name: row[name] for name in names}, "seconds": seconds}
