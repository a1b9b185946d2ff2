"""For tests of steps: a port in memory, and a run of a step without a worker.

    from onelane.testing import MemoryPort, run_step

    port = MemoryPort()
    assert run_step(outline, Topic(topic="Ovens"), port) == {"heads": ["Ovens"]}
    assert port.logs == [("info", "one head")]

`MemoryPort` answers every call of a step by the ledger's rules: an entry moves intent → started → confirmed or
unknown, and `absent` moves a started one back to intent. Its attributes record what the step sent. `run_step` applies
a worker's checks: the input is validated, undeclared calls are refused, and the output must be JSON data of at most
`MAX_OUTPUT_BYTES`. Neither needs a test framework, a server or a process.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from .context import StepContext
from .declarations import Declaration
from .errors import InvalidCall, OwnershipLost
from .port import JobInfo
from .step import Step, check_output

__all__ = ["MemoryPort", "make_context", "run_step"]

InputT = TypeVar("InputT", bound=BaseModel)


class MemoryPort:
    """Answers `Port.call` from plain attributes, which tests set and read.

    `settings` are the clients' settings by name: `text_model`, `browser`, `http`. `fail` maps a call to an exception
    or to a function that may raise. `now` is the ledger's clock, in seconds. `uses` is the step's declaration, set by
    `make_context`; other calls raise `NotDeclared`.
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
        self.uses: Declaration | None = None
        self.step_name = "step"
        #: Log lines that were dropped because the step wrote them too fast.
        self.left_out = 0

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        self.calls.append((name, payload))
        failure = self.fail.get(name)
        if isinstance(failure, BaseException):
            raise failure
        if failure is not None:
            failure()
        if not self.owned:
            raise OwnershipLost(f"{name}: this attempt no longer owns its step")
        if self.uses is not None:
            self.uses.check(self.step_name, name, payload)
        answer = getattr(self, "_" + name.replace(".", "_"), None)
        if answer is None:
            raise InvalidCall(f"a step called {name!r}, which a MemoryPort does not answer")
        return answer(payload)

    def send(self, name: str, payload: dict[str, Any]) -> None:
        self.call(name, payload)

    def verbs(self) -> list[str]:
        """The names of all calls, in order."""
        return [name for name, _ in self.calls]

    def _progress(self, payload: dict[str, Any]) -> None:
        self.progress.append((payload["percent"], payload["note"]))

    def _log(self, payload: dict[str, Any]) -> None:
        self.logs.append((payload["level"], payload["message"]))

    def _log_left_out(self, payload: dict[str, Any]) -> None:
        self.left_out += payload["count"]

    def _cancelled(self, payload: dict[str, Any]) -> bool:
        return self.cancelled

    def _artifact_save(self, payload: dict[str, Any]) -> None:
        self.artifacts[payload["name"]] = (payload["content_type"], base64.b64decode(payload["data"]))

    def _usage_add(self, payload: dict[str, Any]) -> None:
        self.usage.append(payload)

    def _client_settings(self, payload: dict[str, Any]) -> dict[str, Any]:
        name = payload["name"]
        if name not in self.settings:
            raise InvalidCall(
                f"the test gives no settings for the client {name!r}: MemoryPort(settings={{{name!r}: …}})"
            )
        return self.settings[name]

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


def make_context(
    input: InputT,
    port: MemoryPort | None = None,
    *,
    step: Step | None = None,
    outputs: Mapping[str, Any] | None = None,
    account: str = "acme",
    pipeline: str = "test",
    tags: Sequence[str] = (),
    attempt: int = 1,
    seconds: float | None = None,
) -> StepContext[InputT]:
    """A context for one attempt.

    Args:
        input: the job's input.
        port: a new one by default.
        step: gives declaration and time limit; without it every call is allowed.
        outputs: the outputs of the steps before it, by name.
        account: the job's account.
        pipeline: the name of the job's pipeline.
        tags: the job's tags.
        attempt: 1 for the first one.
        seconds: until the attempt is ended; by default the step's time limit, or 300.
    """
    port = port or MemoryPort()
    limit = 300.0 if step is None else step.time_limit
    if step is not None:
        port.uses, port.step_name = step.uses, f"{pipeline}.{step.name}"
    now = datetime.now(UTC)
    return StepContext(
        account=account,
        job=JobInfo("job-1", pipeline, now, tuple(tags)),
        input=type(input).model_validate(input.model_dump(mode="json", warnings=False)),
        outputs=dict(outputs or {}),
        attempt=attempt,
        deadline=now + timedelta(seconds=limit if seconds is None else seconds),
        port=port,
    )


def run_step(step: Step, input: BaseModel, port: MemoryPort | None = None, **context: Any) -> dict[str, Any]:
    """Run a step once, in this thread; returns its output as JSON data, as later steps and the API get it.

    `context` are the arguments of `make_context`. Exceptions and signals of the step are not caught.

    Raises:
        NotDeclared: it used what its `@step` does not declare.
        InvalidCall: its output cannot be kept.
    """
    ctx = make_context(input, port, step=step, **context)
    try:
        output = step(ctx)
    finally:
        ctx.close()
    return cast("dict[str, Any]", json.loads(check_output(output)))
