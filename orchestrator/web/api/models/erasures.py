"""Erasures of accounts."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from ...http.models import AccountName, Answer, Id, NamePaging, Query, Time


class EraseQuery(Query):
    """How an account is erased."""

    force: bool = False
    """Kill running steps; without it a running step is 409 `account_busy`."""


class ErasureBegun(Answer):
    """A requested erasure."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"erasure_id": "0199c0de-0000-7000-8000-000000000001"}]})

    erasure_id: Id


class ErasureView(Answer):
    """An erasure: its progress, and what was removed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0199c0de-0000-7000-8000-000000000001",
                    "account": "acme",
                    "status": "completed",
                    "forced": False,
                    "requested_by": "admin:admin",
                    "running": 0,
                    "removed": {"jobs": 120, "steps": 240, "drafts": 118, "files": 3, "redis_messages": 7},
                    "remaining": 0,
                    "created_at": "2026-11-21T09:00:00Z",
                    "updated_at": "2026-11-21T09:00:04Z",
                    "finished_at": "2026-11-21T09:00:04Z",
                }
            ]
        }
    )

    id: Id
    account: AccountName
    status: Literal["stopping", "removing", "checking", "completed"] = Field(
        description="`stopping`: running steps end; `removing`: rows and files are removed; `checking`: Redis is "
        "emptied, and all tables are searched; `completed`."
    )
    forced: bool
    requested_by: str = Field(description="Scope and id of the key that asked for it.")
    running: int = Field(description="Steps that still run.")
    removed: dict[str, int] = Field(
        description="Rows of each table; `files`; and what Redis had after the last step ended: `redis_messages`, "
        "`redis_queues`, `redis_settings`."
    )
    remaining: int | None = Field(
        description="What the last search of all tables and of Redis found of the account; 0 once it is completed, "
        "null before the first search."
    )
    created_at: Time
    updated_at: Time = Field(description="When the status changed last.")
    finished_at: Time | None


class ErasuresQuery(NamePaging):
    """Filters of the list of erasures."""

    account: AccountName | None = None
