"""The outcome of one attempt.

    Outcome
    ├── Completed    the step returned; `value` is its output
    ├── Failed       the step raised; `code` is one of the codes of jobs and steps
    ├── Signalled    the step raised one of `actors.signals`
    ├── TimedOut     the time limit was reached
    ├── Crashed      the process ended without a result: a signal, os._exit, a fault in C code
    ├── OutOfMemory  the memory limit was reached
    ├── Cancelled    the caller's event was set
    └── Lost         the tree was ended because the worker was silent, or had lost its guard

Each means that the attempt's process tree is proved gone.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from actors.errors import ProviderRefused, StepError
from actors.signals import Signal
from orchestrator.isolation.frames import plain_json

MESSAGE_CHARACTERS = 2_000
TRACEBACK_CHARACTERS = 16_000

SignalKind = Literal["retry", "snooze", "reject", "provider_busy"]


@dataclass(frozen=True, slots=True)
class Completed:
    #: Plain JSON data, at most `Sandbox.max_result_bytes` when encoded.
    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    code: str
    message: str
    #: The step's own frames, last 16,000 characters; may be empty.
    traceback: str
    #: True if it must not be retried.
    permanent: bool
    #: Provider and credential, if the provider refuses every request with this credential.
    refused_scope: str | None = None


@dataclass(frozen=True, slots=True)
class Signalled:
    kind: SignalKind
    #: From `Signal.data()`: ``reason``, and ``after``, ``until``, ``code`` or ``scope``.
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TimedOut:
    #: The limit in seconds.
    time_limit: float
    message: str


@dataclass(frozen=True, slots=True)
class Crashed:
    #: How the process ended, e.g. ``killed by SIGSEGV`` or ``exit status 3``.
    status: str
    #: The last output of the step's processes, at most `output.TAIL_BYTES`.
    tail: str

    @property
    def message(self) -> str:
        text = f"the step's process ended without a result: {self.status}"
        return f"{text}; its last output: {self.tail}" if self.tail else text


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    #: The limit in bytes; None if it was the machine's.
    memory_limit_bytes: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    message: str = "cancelled"


@dataclass(frozen=True, slots=True)
class Lost:
    message: str


Outcome: TypeAlias = Completed | Failed | Signalled | TimedOut | Crashed | OutOfMemory | Cancelled | Lost


def from_wire(result: dict[str, Any], memory_limit_bytes: int | None) -> Outcome:
    """The outcome in a child's ``result``. Raises KeyError or ValueError if it is malformed."""
    match result["kind"]:
        case "completed":
            return Completed(result["value"])
        case "failed":
            permanent = result["permanent"] is True
            scope = result.get("refused_scope")
            return Failed(
                str(result["code"]),
                str(result["message"]),
                str(result["traceback"]),
                permanent,
                None if scope is None else str(scope),
            )
        case "signalled":
            if result["signal"] not in ("retry", "snooze", "reject", "provider_busy"):
                raise ValueError(f"unknown signal {result['signal']!r}")
            return Signalled(cast(SignalKind, result["signal"]), dict(result["data"]))
        case "out_of_memory":
            return OutOfMemory(memory_limit_bytes, str(result["message"]))
        case kind:
            raise ValueError(f"unknown kind of result {kind!r}")


def from_error(error: BaseException) -> Outcome:
    """The outcome of a step that raised this."""
    return from_wire(error_to_wire(error), None)


def unusable_to_wire(message: str) -> dict[str, Any]:
    """A permanent failure: the step returned, or raised, something that cannot be kept."""
    return {
        "kind": "failed",
        "code": "step_failed",
        "message": message[:MESSAGE_CHARACTERS],
        "traceback": "",
        "permanent": True,
    }


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """What a step raised, as the plain data of a child's ``result``."""
    if isinstance(error, Signal):
        try:
            data = error.data()
            plain_json(data)
        except Exception as fault:
            return unusable_to_wire(f"the signal {type(error).__name__} carries something that is not JSON: {fault}")
        return {"kind": "signalled", "signal": error.signal_kind, "data": data}
    return {
        "kind": "failed",
        "code": error.code if isinstance(error, StepError) else StepError.code,
        "message": _describe(error),
        "traceback": _traceback(error),
        "permanent": isinstance(error, StepError) and bool(error.permanent),
        "refused_scope": error.scope if isinstance(error, ProviderRefused) else None,
    }


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as fault:
        text = f"(its message can't be shown: {fault!r})"
    if not isinstance(error, StepError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:MESSAGE_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def _traceback(error: BaseException) -> str:
    try:
        # The first frame is the caller's, not the step's.
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception as fault:
        text = f"(no traceback: {fault!r})"
    return text[-TRACEBACK_CHARACTERS:].encode("utf-8", "backslashreplace").decode()
