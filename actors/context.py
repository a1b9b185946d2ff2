"""`StepContext`: everything that a step may use.

A step has no database, Redis or secret key. It reaches the outside through one `Port`; the worker answers after it has
checked that the attempt still owns its step. `actors.testing` has a port for tests.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from .clients import Clients
from .errors import InvalidCall
from .port import (
    MAX_ARTIFACT_BYTES,
    Callback,
    Credentials,
    Draft,
    JobInfo,
    Port,
    Publication,
    SessionState,
    Target,
)

InputT = TypeVar("InputT", bound=BaseModel)


class SessionAccess:
    """The account's session; only this account's can be reached."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def load(self) -> SessionState:
        data = self._port.call("session.load", {})
        credentials = data.get("credentials")
        return SessionState(data.get("storage_state"), Credentials(**credentials) if credentials else None)

    def save(self, storage_state: dict[str, Any], expires_at: datetime | None = None) -> None:
        """Keep a renewed storage state, sealed."""
        self._port.call(
            "session.save",
            {"storage_state": storage_state, "expires_at": expires_at.isoformat() if expires_at else None},
        )

    def login_required(self, reason: str) -> None:
        """Record that a person must sign in; the account's publish lane is paused until then."""
        self._port.call("session.login_required", {"reason": reason})


class DraftAccess:
    """The job's draft."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def create(self, *, title: str, body: str, tags: list[str]) -> Draft:
        """Keep the draft as ``pending_publish``; replaces the job's draft if it was not published."""
        return Draft.from_wire(self._port.call("draft.create", {"title": title, "body": body, "tags": tags}))

    def load(self) -> Draft:
        """The job's current draft; a person may have edited it.

        Raises:
            LookupError: the job has no draft.
        """
        data = self._port.call("draft.load", {})
        if data is None:
            raise LookupError("this job has no draft: a step before this one must make it")
        return Draft.from_wire(data)


class PublicationAccess:
    """The publication ledger: intent → started → confirmed | unknown. Each write is guarded by the worker."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def open(self, target: Target) -> Publication:
        """The draft's ledger entry, created with status ``intent`` if missing.

        An entry that was not started gets the account's current target; a started one keeps its own.
        """
        where = {"publisher": target.publisher, "base_url": target.base_url}
        return Publication.from_wire(self._port.call("publication.open", where))

    def started(self, draft: Draft) -> None:
        """Record that the irreversible request with this draft is sent next. Returns when that is committed.

        Raises:
            PublishFailed: the draft was edited after it was loaded; the next attempt loads it again.
        """
        self._port.call("publication.started", {"version": draft.version})

    def absent(self) -> None:
        """Record that the target, asked after its settling time, has no such post."""
        self._port.call("publication.absent", {})

    def confirmed(self, url: str, external_id: str | None) -> None:
        """Record that the post was read back and equals the draft."""
        self._port.call("publication.confirmed", {"url": url, "external_id": external_id})

    def unknown(self, reason: str) -> None:
        """Record that the outcome cannot be determined; the draft becomes ``needs_review``."""
        self._port.call("publication.unknown", {"reason": reason})


class CallbackAccess:
    """The call of the built-in pipeline `webhook`; the worker refuses it to all others."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def load(self) -> Callback | None:
        """The call to make, signed for now; None if the job's end no longer needs one."""
        data = self._port.call("callback.load", {})
        if data is None:
            return None
        return Callback(data["url"], data["headers"], data["body"], tuple(data["allowed_hosts"]))

    def answered(self, status_code: int) -> None:
        """Keep the receiver's answer with the attempt."""
        self._port.call("callback.answered", {"status_code": status_code})


class StepLog:
    """Log lines of a step: kept as events of the job, and written to the worker's log.

    A line costs microseconds: the step does not wait for the commit. A step may write `BURST_LINES` at once and
    `LINES_PER_SECOND` on average. Further lines are dropped, and one line says how many.
    """

    BURST_LINES = 5_000
    LINES_PER_SECOND = 100.0

    def __init__(self, port: Port, now: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._now = now
        self._state = threading.Lock()
        self._allowed_lines = float(self.BURST_LINES)
        self._counted_at = now()
        self._left_out = 0

    def debug(self, message: str) -> None:
        self._write(logging.DEBUG, message)

    def info(self, message: str) -> None:
        self._write(logging.INFO, message)

    def warning(self, message: str) -> None:
        self._write(logging.WARNING, message)

    def error(self, message: str) -> None:
        self._write(logging.ERROR, message)

    def close(self) -> None:
        """Report the lines that were dropped last."""
        with self._state:
            self._send_left_out()

    def _write(self, level: int, message: str) -> None:
        with self._state:
            if not self._may_write():
                self._left_out += 1
                return
            self._send_left_out()
            self._port.send("log", {"level": logging.getLevelName(level).lower(), "message": message[:4000]})

    def _may_write(self) -> bool:
        moment = self._now()
        gained = (moment - self._counted_at) * self.LINES_PER_SECOND
        self._allowed_lines = min(self.BURST_LINES, self._allowed_lines + gained)
        self._counted_at = moment
        if self._allowed_lines < 1:
            return False
        self._allowed_lines -= 1
        return True

    def _send_left_out(self) -> None:
        if self._left_out:
            self._port.send("log.left_out", {"count": self._left_out})
            self._left_out = 0


class StepContext(Generic[InputT]):
    """The argument of a step's function; see the module's docstring."""

    def __init__(
        self,
        *,
        account: str,
        job: JobInfo,
        input: InputT,
        outputs: Mapping[str, Any],
        attempt: int,
        deadline: datetime,
        port: Port,
    ) -> None:
        #: The account that the job belongs to.
        self.account = account
        self.job = job
        #: The job's input, validated by the pipeline's model.
        self.input = input
        #: The outputs of the finished steps before this one, by step name.
        self.outputs = MappingProxyType(dict(outputs))
        #: 1 for the first attempt.
        self.attempt = attempt
        #: When this attempt will be ended.
        self.deadline = deadline
        self.session = SessionAccess(port)
        self.drafts = DraftAccess(port)
        self.publication = PublicationAccess(port)
        self.callback = CallbackAccess(port)
        self.log = StepLog(port)
        self._port = port
        self._clients: Clients | None = None

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], input_model: type[InputT], port: Port) -> StepContext[InputT]:
        """The context from the worker's plain data: `account job input outputs attempt deadline`."""
        job = data["job"]
        return cls(
            account=data["account"],
            job=JobInfo(
                job["id"], job["pipeline"], datetime.fromisoformat(job["created_at"]), tuple(job.get("tags", ()))
            ),
            input=input_model.model_validate(data["input"]),
            outputs=data["outputs"],
            attempt=data["attempt"],
            deadline=datetime.fromisoformat(data["deadline"]),
            port=port,
        )

    @property
    def target(self) -> Target | None:
        """Where the account publishes; None if it is not set."""
        data = self._port.call("target.load", {})
        if data is None:
            return None
        return Target(data["publisher"], data["base_url"], data.get("options", {}), data.get("implementation"))

    @property
    def clients(self) -> Clients:
        """Clients (the text model, a browser, HTTP) with the worker's settings."""
        if self._clients is None:
            self._clients = Clients(self._port, self.remaining_seconds)
        return self._clients

    @property
    def cancelled(self) -> bool:
        """True when the job's cancellation was requested. The worker ends the process soon after."""
        return bool(self._port.call("cancelled", {}))

    def remaining_seconds(self) -> float:
        """Seconds until this attempt is ended; never negative."""
        return max(0.0, (self.deadline - datetime.now(UTC)).total_seconds())

    def progress(self, percent: float, note: str = "") -> None:
        """Report progress: 0 to 100, and a short note. Of several in a quarter of a second the last is kept."""
        self._port.send("progress", {"percent": max(0, min(100, int(percent))), "note": note[:200]})

    def artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Keep a file with the attempt, such as a screenshot, of at most `MAX_ARTIFACT_BYTES`.

        Raises:
            InvalidCall: it is larger.
        """
        if len(content) > MAX_ARTIFACT_BYTES:
            raise InvalidCall(f"artifact {name!r} has {len(content)} bytes; at most {MAX_ARTIFACT_BYTES} are kept")
        data = base64.b64encode(content).decode("ascii")
        self._port.call("artifact.save", {"name": name, "content_type": content_type, "data": data})

    def close(self) -> None:
        """Send what is pending; called when the step has ended."""
        self.log.close()
