"""`MemoryPort`: the worker's end of a step's pipe, in plain Python, for tests of steps and clients.

It answers every verb that a step can use, with the ledger's rules: an entry moves intent → started → confirmed or
unknown, `absent` takes a started one back to intent. It keeps all calls, and can be told to fail at any of them.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from actors.context import StepContext
from actors.declarations import CLIENT_NAMES, Declaration
from actors.errors import OwnershipLost
from orchestrator.runtime import Runtime
from orchestrator.step_journal import StepJournal
from orchestrator.step_port import StepPort
from tenants.store.steps import Owned

#: For tests of parts that are not about declarations.
EVERYTHING = Declaration(CLIENT_NAMES, session=True, drafts=True, publication=True)


def step_port(
    runtime: Runtime, owned: Owned, uses: Declaration = EVERYTHING, journal: StepJournal | None = None
) -> StepPort:
    """The worker's end of the port for an attempt that is under way."""
    return StepPort(
        owned,
        runtime.database,
        runtime.sessions,
        runtime.settings,
        runtime.queue_settings,
        runtime.callbacks,
        journal or StepJournal(owned, runtime.database),
        uses=uses,
    )


class NoInput(BaseModel):
    """The input of a step that takes none."""


class MemoryPort:
    """Answers `Port.call` from plain attributes, which tests set and read.

    `fail` maps a verb to what is raised when it is called: an exception, or a function that may raise. `now` is the
    clock of the ledger, in seconds.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, dict[str, Any]] | None = None,
        target: dict[str, Any] | None = None,
        draft: dict[str, Any] | None = None,
        storage_state: dict[str, Any] | None = None,
        credentials: dict[str, str] | None = None,
        marker: str = "post-0001",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = dict(settings or {})
        self.target = target
        self.draft = draft
        self.storage_state = storage_state
        self.credentials = credentials
        self.marker = marker
        self.now = now
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fail: dict[str, BaseException | Callable[[], None]] = {}
        self.publication: dict[str, Any] | None = None
        self.started_at: float | None = None
        self.progress: list[tuple[int, str]] = []
        self.logs: list[tuple[str, str]] = []
        self.artifacts: dict[str, tuple[str, bytes]] = {}
        self.usage: list[dict[str, Any]] = []
        self.login_required: list[str] = []
        self.session_expires_at: str | None = None
        self.cancelled = False
        self.owned = True

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        self.calls.append((name, payload))
        failure = self.fail.get(name)
        if isinstance(failure, BaseException):
            raise failure
        if failure is not None:
            failure()
        if not self.owned:
            raise OwnershipLost(f"{name}: this attempt no longer owns its step")
        return getattr(self, "_" + name.replace(".", "_"))(payload)

    def send(self, name: str, payload: dict[str, Any]) -> None:
        self.call(name, payload)

    def verbs(self) -> list[str]:
        """The names of all calls, in order."""
        return [name for name, _ in self.calls]

    def _progress(self, payload: dict[str, Any]) -> None:
        self.progress.append((payload["percent"], payload["note"]))

    def _log(self, payload: dict[str, Any]) -> None:
        self.logs.append((payload["level"], payload["message"]))

    def _cancelled(self, payload: dict[str, Any]) -> bool:
        return self.cancelled

    def _artifact_save(self, payload: dict[str, Any]) -> None:
        self.artifacts[payload["name"]] = (payload["content_type"], base64.b64decode(payload["data"]))

    def _usage_add(self, payload: dict[str, Any]) -> None:
        self.usage.append(payload)

    def _client_settings(self, payload: dict[str, Any]) -> dict[str, Any]:
        return self.settings[payload["name"]]

    def _session_load(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"storage_state": self.storage_state, "credentials": self.credentials}

    def _session_save(self, payload: dict[str, Any]) -> None:
        self.storage_state = payload["storage_state"]
        self.session_expires_at = payload["expires_at"]

    def _session_login_required(self, payload: dict[str, Any]) -> None:
        self.login_required.append(payload["reason"])

    def _target_load(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        return self.target

    def _draft_create(self, payload: dict[str, Any]) -> dict[str, Any]:
        version = self.draft["version"] + 1 if self.draft else 1
        self.draft = {"id": "draft-1", "status": "pending_publish", "version": version, **payload}
        return self.draft

    def _draft_load(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        return self.draft

    def _publication_open(self, payload: dict[str, Any]) -> dict[str, Any]:
        if self.publication is None:
            self.publication = {
                "id": "publication-1",
                "marker": self.marker,
                "status": "intent",
                "publisher": payload["publisher"],
                "base_url": payload["base_url"],
                "url": None,
                "external_id": None,
            }
        ago = None if self.started_at is None else self.now() - self.started_at
        return {**self.publication, "started_seconds_ago": ago}

    def _publication_started(self, payload: dict[str, Any]) -> None:
        self._move("started", {"intent"})
        self.started_at = self.now()

    def _publication_absent(self, payload: dict[str, Any]) -> None:
        self._move("intent", {"intent", "started", "unknown"})
        self.started_at = None

    def _publication_confirmed(self, payload: dict[str, Any]) -> None:
        self._move("confirmed", {"intent", "started", "unknown"})
        assert self.publication is not None
        self.publication.update(url=payload["url"], external_id=payload["external_id"])

    def _publication_unknown(self, payload: dict[str, Any]) -> None:
        self._move("unknown", {"started", "unknown"})

    def _move(self, status: str, allowed: set[str]) -> None:
        assert self.publication is not None, f"{status} before the ledger entry was opened"
        assert self.publication["status"] in allowed, (
            f"{self.publication['status']} → {status} is no step of the ledger"
        )
        self.publication["status"] = status


def make_context(port: MemoryPort, *, seconds: float = 300, attempt: int = 1) -> StepContext[NoInput]:
    """A context for one attempt over the port, as the worker would make it."""
    now = datetime.now(UTC)
    wire = {
        "account": "acme",
        "job": {"id": "job-1", "pipeline": "blog", "created_at": now.isoformat(), "tags": []},
        "input": {},
        "outputs": {},
        "attempt": attempt,
        "deadline": (now + timedelta(seconds=seconds)).isoformat(),
    }
    return StepContext.from_wire(wire, NoInput, port)
