"""Fault injection: a script of faults, so that tests can get every answer that Gemini may give.

Without faults the service answers normally. `Faults` is safe to use from several threads.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .protocol import Answer, error_body

Kind = Literal[
    "blocked_prompt",  # 200, promptFeedback.blockReason = reason, no candidate
    "finish",  # 200, finishReason = reason; the text is cut in half for MAX_TOKENS and left out else
    "cut_json",  # 200, STOP, but half the text
    "wrong_schema",  # 200, STOP, JSON of another shape
    "empty",  # 200, no candidate and no reason
    "garbage",  # 200, a body that is not JSON
    "quota",  # 429; reason "minute", "day", "zero", "credits" or "" (no details); retry_delay as RetryInfo
    "fenced",  # 200, the ordinary JSON in a Markdown fence, with a comma before its last bracket
    "escaped",  # 200, the ordinary JSON, each of its texts escaped once too often
    "status",  # `status` with `reason` as its word and `detail` as ErrorInfo.reason
    "slow",  # the ordinary answer after `seconds`
    "trickle",  # the ordinary answer, one byte each `seconds`
    "hang",  # no answer until the client disconnects
]
#: The longest that a fault holds a connection.
LONGEST_SECONDS = 600.0

_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `Kind` says which fields each uses.

    Raises:
        ValueError: an unknown kind, or a number out of range.
    """

    kind: Kind
    reason: str = ""
    message: str = ""
    detail: str = ""
    retry_delay: str = ""
    status: int = 500
    seconds: float = 1.0
    #: How many requests get it.
    times: int = 1
    #: Only requests whose prompt contains this text get it.
    when: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"fault kind {self.kind!r}: it must be one of {', '.join(get_args(Kind))}")
        if not 0 <= self.seconds <= LONGEST_SECONDS or not 1 <= self.times <= 100_000 or not 400 <= self.status <= 599:
            raise ValueError(f"fault {self.kind!r}: seconds, times or status is out of range")


class Faults:
    """A script: each request takes the first fault that fits it."""

    def __init__(self, *faults: Fault) -> None:
        self._guard = threading.Lock()
        self._script: list[tuple[Fault, int]] = [(fault, fault.times) for fault in faults]

    def add(self, *faults: Fault) -> None:
        with self._guard:
            self._script += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        with self._guard:
            self._script.clear()

    def take(self, prompt: str) -> Fault | None:
        """The fault for a request; its count is decreased."""
        with self._guard:
            for index, (fault, left) in enumerate(self._script):
                if fault.when in prompt:
                    self._script[index : index + 1] = [(fault, left - 1)] if left > 1 else []
                    return fault
        return None


def error_of(fault: Fault) -> tuple[int, dict[str, Any]] | None:
    """Status and body of a fault that is an HTTP error; None for the others."""
    if fault.kind == "quota":
        return 429, _quota(fault)
    if fault.kind != "status":
        return None
    word = fault.reason or _WORDS.get(fault.status, "UNKNOWN")
    details = []
    if fault.detail:
        details = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": fault.detail,
                "domain": "googleapis.com",
            }
        ]
    message = fault.message or f"The offline model was set to fail with {fault.status}."
    return fault.status, error_body(fault.status, word, message, details)


def apply_fault(fault: Fault, answer: Answer) -> Answer:
    """The normal answer as the fault changes it."""
    half = answer.text[: len(answer.text) // 2]
    if fault.kind == "blocked_prompt":
        return Answer("", block_reason=fault.reason or "SAFETY")
    if fault.kind == "finish":
        return Answer(half if fault.reason == "MAX_TOKENS" else "", finish_reason=fault.reason or "SAFETY")
    if fault.kind == "cut_json":
        return Answer(half)
    if fault.kind == "fenced":
        return Answer("Here it is:\n```json\n" + answer.text.rstrip().removesuffix("}") + ",\n}\n```\n")
    if fault.kind == "escaped":
        return Answer(json.dumps(_escaped(json.loads(answer.text))))
    if fault.kind == "wrong_schema":
        return Answer('{"unexpected": true}')
    if fault.kind == "empty":
        return Answer("", has_candidate=False)
    return answer


def _escaped(value: Any) -> Any:
    """The value with each string JSON-escaped once more."""
    if isinstance(value, str):
        return json.dumps(value)[1:-1]
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return {name: _escaped(each) for name, each in value.items()} if isinstance(value, dict) else value


#: Google's messages where waiting does not help, from public reports.
_ZERO = (
    "You exceeded your current quota, please check your plan and billing details.\n"
    "* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0, "
    "model: gemini-3-pro\nPlease retry in 45.578569677s."
)
_CREDITS = "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."


def _quota(fault: Fault) -> dict[str, Any]:
    details: list[dict[str, Any]] = []
    if fault.reason in ("zero", "credits"):
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": fault.retry_delay or "45s"}
        message = fault.message or (_ZERO if fault.reason == "zero" else _CREDITS)
        return error_body(429, "RESOURCE_EXHAUSTED", message, [retry])
    if fault.reason:
        period = "PerDay" if fault.reason == "day" else "PerMinute"
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
            "quotaId": f"GenerateRequests{period}PerProjectPerModel-FreeTier",
            "quotaValue": "10",
        }
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if fault.retry_delay:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": fault.retry_delay})
    return error_body(429, "RESOURCE_EXHAUSTED", fault.message or "You exceeded your current quota.", details)
