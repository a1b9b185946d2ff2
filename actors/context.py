"""`StepContext`: all that a step may use.

A step has no database, Redis or secret key. Whatever it needs from outside its process goes through one `Port`; the
worker answers at the other end, after it has checked that this attempt still owns its step. A step is tested with a
port made of plain Python (`tests` has one).
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from .errors import InvalidCall

if TYPE_CHECKING:
    from .clients import Clients

#: Bytes that one artifact may have.
MAX_ARTIFACT_BYTES = 5 * 1024 * 1024

InputT = TypeVar("InputT", bound=BaseModel)


class Port(Protocol):
    """The one way out of a step's process: named calls and messages with JSON data.

    Both raise `actors.errors.OwnershipLost` when this attempt is known to own its step no more.
    """

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        """Ask the worker and wait for its answer."""

    def send(self, name: str, payload: dict[str, Any]) -> None:
        """Send what needs no answer; the worker keeps it soon, in order, and before the next call."""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What a step may know of its job."""

    id: str
    pipeline: str
    created_at: datetime
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A post that was generated and kept; `body` is Markdown."""

    id: str
    title: str
    body: str
    tags: tuple[str, ...]
    status: str
    version: int

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Draft:
        return cls(data["id"], data["title"], data["body"], tuple(data["tags"]), data["status"], data["version"])


@dataclass(frozen=True, slots=True)
class Publication:
    """A draft's entry in the publication ledger.

    `status` is ``intent``, ``started``, ``confirmed`` or ``unknown``. `marker` is what `Publisher.find` looks for; it
    is the same for every try of a draft. `started_seconds_ago` counts from the last moment at which a request could
    have left, by the database's clock; None before the first start.
    """

    id: str
    marker: str
    status: str
    publisher: str
    base_url: str
    url: str | None
    external_id: str | None
    started_seconds_ago: float | None

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Publication:
        return cls(**{name: data[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Target:
    """Where an account publishes. `implementation` is the publisher's class as ``module:Class``, from the worker."""

    publisher: str
    base_url: str
    options: Mapping[str, Any]
    implementation: str | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password; the password never shows in a log."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password='…')"


@dataclass(frozen=True, slots=True)
class SessionState:
    """An account's browser state as Playwright's storage state, and what to sign in with when it is over."""

    storage_state: dict[str, Any] | None
    credentials: Credentials | None

    def __repr__(self) -> str:
        return f"SessionState(storage_state={'…' if self.storage_state else None}, credentials={self.credentials!r})"


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
        """Record that a person must sign in; the account's publish lane waits until somebody does."""
        self._port.call("session.login_required", {"reason": reason})


class DraftAccess:
    """The job's draft."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def create(self, *, title: str, body: str, tags: list[str]) -> Draft:
        """Keep the draft as ``pending_publish``; a second call of the same job replaces what was not published."""
        return Draft.from_wire(self._port.call("draft.create", {"title": title, "body": body, "tags": tags}))

    def load(self) -> Draft:
        """The job's draft, as it is now (a person may have edited it).

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
        """The draft's ledger entry; it is made with status ``intent`` when there is none.

        An entry that was not started follows the account's target; one that was keeps the target it was started at.
        """
        where = {"publisher": target.publisher, "base_url": target.base_url}
        return Publication.from_wire(self._port.call("publication.open", where))

    def started(self, draft: Draft) -> None:
        """Write down that the irreversible request with this draft is about to leave. Returns once it is committed.

        Raises:
            PublishFailed: somebody has edited the draft since it was loaded; the next attempt loads it anew.
        """
        self._port.call("publication.started", {"version": draft.version})

    def absent(self) -> None:
        """Write down that the target was asked, after its settling time, and has no such post."""
        self._port.call("publication.absent", {})

    def confirmed(self, url: str, external_id: str | None) -> None:
        """Write down that the post was read back and is the draft."""
        self._port.call("publication.confirmed", {"url": url, "external_id": external_id})

    def unknown(self, reason: str) -> None:
        """Write down that nobody can tell; the draft becomes ``needs_review``."""
        self._port.call("publication.unknown", {"reason": reason})


@dataclass(frozen=True, slots=True)
class Callback:
    """A webhook that is to be called: signed by the worker, with the private hosts that may be reached."""

    url: str
    headers: Mapping[str, str]
    body: str
    allowed_hosts: tuple[str, ...]


class CallbackAccess:
    """The call of the built-in pipeline `webhook`; the worker refuses it to every other."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def load(self) -> Callback | None:
        """What is to be sent, signed for now; None when there is nothing to tell any more."""
        data = self._port.call("callback.load", {})
        if data is None:
            return None
        return Callback(data["url"], data["headers"], data["body"], tuple(data["allowed_hosts"]))

    def answered(self, status_code: int) -> None:
        """Keep with the attempt what the receiver answered."""
        self._port.call("callback.answered", {"status_code": status_code})


class StepLog:
    """Log lines of a step: kept as events of the job, and written to the worker's log.

    A line costs microseconds: the step does not wait for the commit. A step may write `BURST_LINES` at once and
    `LINES_PER_SECOND` for as long as it runs; what comes on top is left out, and a line says how many were.
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
        """Say how many lines were left out at last."""
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
    """What the worker hands to a step; see the module's docstring."""

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
        """Where the account publishes; None when nobody has set it."""
        data = self._port.call("target.load", {})
        if data is None:
            return None
        return Target(data["publisher"], data["base_url"], data.get("options", {}), data.get("implementation"))

    @property
    def clients(self) -> Clients:
        """Ready-made clients (the text model, a browser), made at first use from the worker's settings."""
        if self._clients is None:
            from .clients import Clients

            self._clients = Clients(self._port, self.remaining_seconds)
        return self._clients

    @property
    def cancelled(self) -> bool:
        """True once somebody has asked to cancel the job. The worker ends the process soon after."""
        return bool(self._port.call("cancelled", {}))

    def remaining_seconds(self) -> float:
        """Seconds until this attempt is ended; never negative."""
        return max(0.0, (self.deadline - datetime.now(UTC)).total_seconds())

    def progress(self, percent: float, note: str = "") -> None:
        """Say how far the step is, 0 to 100, in one short line. Of several in a quarter of a second the last counts."""
        self._port.send("progress", {"percent": max(0, min(100, int(percent))), "note": note[:200]})

    def artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Keep evidence with the attempt, such as a screenshot, of at most `MAX_ARTIFACT_BYTES`.

        Raises:
            InvalidCall: it is larger.
        """
        if len(content) > MAX_ARTIFACT_BYTES:
            raise InvalidCall(f"artifact {name!r} has {len(content)} bytes; at most {MAX_ARTIFACT_BYTES} are kept")
        data = base64.b64encode(content).decode("ascii")
        self._port.call("artifact.save", {"name": name, "content_type": content_type, "data": data})

    def close(self) -> None:
        """What is left to send when the step has ended; the worker calls it."""
        self.log.close()
