"""The port, which is a step's only way out of its process, and the values that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

#: Bytes that one artifact may have.
MAX_ARTIFACT_BYTES = 5 * 1024 * 1024


class Port(Protocol):
    """Named calls and messages with JSON data, which the worker handles.

    Both raise `actors.errors.OwnershipLost` when another attempt is known to own the step.
    """

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        """Call the worker and wait for its answer."""

    def send(self, name: str, payload: dict[str, Any]) -> None:
        """Send a one-way message. The worker keeps messages in order, soon, and before the next call."""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """The step's job."""

    id: str
    pipeline: str
    created_at: datetime
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A generated post; `body` is Markdown."""

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

    `status` is ``intent``, ``started``, ``confirmed`` or ``unknown``. `Publisher.find` searches for `marker`, which is
    the same for every attempt of a draft. `started_seconds_ago` is the time since a request could last have been sent,
    by the database's clock; None before the first start.
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
    """A user name and password; `repr` hides the password from logs."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password='…')"


@dataclass(frozen=True, slots=True)
class SessionState:
    """An account's browser state as Playwright's storage state, and the credentials to sign in again."""

    storage_state: dict[str, Any] | None
    credentials: Credentials | None

    def __repr__(self) -> str:
        return f"SessionState(storage_state={'…' if self.storage_state else None}, credentials={self.credentials!r})"


@dataclass(frozen=True, slots=True)
class Callback:
    """A webhook call: its body signed by the worker, and the private hosts that may be reached."""

    url: str
    headers: Mapping[str, str]
    body: str
    allowed_hosts: tuple[str, ...]
