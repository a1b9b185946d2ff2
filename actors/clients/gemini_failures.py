"""Maps Gemini's failure answers to `actors.errors` and `ProviderBusy`.

Only pure functions of the answer. No message contains an API key: server messages are cut short and scrubbed. Sources:
the error model and rate-limit pages of the Gemini API, and google-genai 3.4 (`errors.APIError`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from google.genai import errors, types

from ..errors import ContentBlocked, OutputTruncated, ProviderError, ProviderRefused, ProviderTimeout
from ..signals import ProviderBusy

#: Seconds to wait after a 429 that does not say how long.
DEFAULT_BUSY_SECONDS = 60.0
#: The longest RetryInfo that is used: a per-minute quota ends sooner.
LONGEST_BUSY_SECONDS = 3600.0
#: Gemini's quota day ends at midnight in this zone.
QUOTA_ZONE = "America/Los_Angeles"

_BLOCKED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "LANGUAGE",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
        "ESCALATION",
    }
)
_CUT_OFF = frozenset({"MAX_TOKENS", "CONTINUATION"})
#: Google's messages for a 429 that does not pass: a quota of zero, a model without a free tier, an empty or capped
#: balance.
_NO_QUOTA = re.compile(r"\blimit: ?0(?![\d.])|doesn't have a free quota tier", re.IGNORECASE)
_NO_CREDIT = re.compile(
    r"credits? (?:are|is|have been|has been) (?:depleted|exhausted|used up)|depleted credits"
    r"|insufficient (?:credit|balance)"
    r"|spend(?:ing)? (?:cap|limit)|billing (?:account )?(?:is |has been )?(?:disabled|closed|not active)",
    re.IGNORECASE,
)
_RETRY_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def from_http(
    error: errors.APIError, *, model: str, credential: str, secret: str, now: datetime
) -> ProviderError | ProviderBusy:
    """The error for an HTTP error answer. `now` is an aware datetime; `secret` is scrubbed from the message."""
    said = _said(error, secret)
    code, scope = error.code, f"gemini:{credential}"
    if code == 429:
        return _refused_quota(error, said, model, scope) or _busy(error, said, scope, now)
    if code in (401, 403) or (code == 400 and _is_about_key(error)):
        return ProviderRefused(
            f"Gemini does not accept the API key ({said}). "
            "Check GEMINI_API_KEY, and that its project may use this API.",
            scope=scope,
        )
    if code == 404:
        return ProviderRefused(
            f"Gemini has no model {model!r} for this key ({said}). Set ONELANE_TEXT_MODEL to a model that it offers."
        )
    if code in (408, 504):
        return ProviderTimeout(f"Gemini gave up on the request ({said})")
    if 400 <= code < 500 and code != 499:
        return ProviderRefused(f"Gemini refuses the request ({said})")
    return ProviderError(f"Gemini failed ({said})")


def check_finish(response: types.GenerateContentResponse, credential: str) -> None:
    """Check that an answer of status 200 is complete.

    Raises:
        ContentBlocked: the prompt or the answer was blocked.
        OutputTruncated: the answer was cut off at a limit on tokens.
        ProviderRefused: the account behind the key was limited for breaking the provider's policy.
        ProviderError: there is no answer, or it ended for another reason.
    """
    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason is not None:
        reason = _word(feedback.block_reason)
        raise ContentBlocked(f"Gemini blocked the prompt ({reason}): change the topic or the sources")
    if not response.candidates:
        raise ProviderError("Gemini answered without a candidate")
    candidate = response.candidates[0]
    reason = _word(candidate.finish_reason)
    if reason in _BLOCKED:
        raise ContentBlocked(f"Gemini stopped its own answer ({reason}): change the topic or the sources")
    if reason in _CUT_OFF:
        raise OutputTruncated(f"Gemini's answer was cut off at its limit on tokens ({reason})")
    if reason == "PUP_LIMITED_DISABLED":
        raise ProviderRefused(
            f"Gemini has limited or disabled the account behind this key ({reason})", scope=f"gemini:{credential}"
        )
    if reason not in ("STOP", ""):
        raise ProviderError(f"Gemini stopped without a usable answer ({reason})")


def seconds_until_quota_day_ends(now: datetime) -> float:
    """Seconds from `now` (aware) until the next midnight in California, daylight saving included."""
    zone = ZoneInfo(QUOTA_ZONE)
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    midnight = datetime.combine(tomorrow, time.min, tzinfo=zone)
    # By timestamps: subtracting two datetimes of one zone would ignore a change of the clock between them.
    return midnight.timestamp() - now.timestamp()


def _refused_quota(error: errors.APIError, said: str, model: str, scope: str) -> ProviderRefused | None:
    """The error for a 429 that a retry cannot pass; None for one that ends after a while."""
    message = str(error.message or "")
    values = [str(each.get("quotaValue", "")).strip() for each in _violations(error)]
    if "0" in values or _NO_QUOTA.search(message):
        return ProviderRefused(
            f"the Gemini key has no quota at all for model {model!r} ({said}). Turn billing on for its project, or set "
            "ONELANE_TEXT_MODEL to a model that its plan has.",
            scope=scope,
        )
    if _NO_CREDIT.search(message):
        return ProviderRefused(
            f"the credits of the Gemini key are used up, or its billing is stopped ({said}). "
            "Fill them up or raise the cap at the provider; then replay the dead letters.",
            scope=scope,
        )
    return None


def _busy(error: errors.APIError, said: str, scope: str, now: datetime) -> ProviderBusy:
    quotas = [str(each.get("quotaId", "")) for each in _violations(error)]
    if any("perday" in quota.lower() for quota in quotas):
        reason = f"the daily quota of the Gemini key is used up, until midnight in California ({said})"
        return ProviderBusy(seconds_until_quota_day_ends(now), scope, reason)
    after = _retry_delay(error)
    return ProviderBusy(
        DEFAULT_BUSY_SECONDS if after is None else after, scope, f"the Gemini key is at its limit for now ({said})"
    )


def _retry_delay(error: errors.APIError) -> float | None:
    for detail in _details(error):
        match = _RETRY_DELAY.fullmatch(str(detail.get("retryDelay", "")).strip())
        if match:
            return min(max(float(match[1]), 1.0), LONGEST_BUSY_SECONDS)
    return None


def _violations(error: errors.APIError) -> Iterator[dict[str, Any]]:
    for detail in _details(error):
        violations = detail.get("violations")
        if isinstance(violations, list):
            yield from (each for each in violations if isinstance(each, dict))


def _details(error: errors.APIError) -> list[dict[str, Any]]:
    """The `details` list of Google's error model; empty for the answer of a proxy."""
    body: Any = error.details
    inner = body.get("error") if isinstance(body, dict) else None
    details = inner.get("details") if isinstance(inner, dict) else None
    return [each for each in details if isinstance(each, dict)] if isinstance(details, list) else []


def _is_about_key(error: errors.APIError) -> bool:
    reasons = {str(each.get("reason", "")) for each in _details(error)}
    return bool(reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED"}) or "api key" in str(error.message).lower()


def _said(error: errors.APIError, secret: str) -> str:
    """Status and message in one short line without the key."""
    message = " ".join(str(error.message or "").split())
    if secret:
        message = message.replace(secret, "[key]")
    words = [str(error.code), str(error.status or "")]
    return " ".join(word for word in words if word) + (f": {message[:300]}" if message else "")


def _word(reason: Any) -> str:
    return "" if reason is None else str(getattr(reason, "value", reason)).upper()
