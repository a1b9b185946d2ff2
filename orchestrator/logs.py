"""Logging of every process: one line a record, as text or JSON, to standard error.

Invariant: no log line has a secret of the settings, in its message or its traceback.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from .settings import Settings

_MASK = "[secret]"
#: Names and addresses of hosts, which are no secrets.
_HOST = re.compile(r"localhost|\d+(\.\d+){3}|([a-zA-Z0-9-]+\.)+[a-zA-Z]{2,}")
#: Attributes of every `LogRecord`; any other came by `extra=`, and is added to the JSON line.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
#: Libraries that log each request or statement at INFO.
_CHATTY = ("httpx2", "httpcore2", "google_genai", "uvicorn", "alembic", "asyncio", "dramatiq")


def configure(settings: Settings) -> None:
    """Configure the root logger, replacing its handlers."""
    configure_as(settings.log_level, settings.log_format, secrets=_secrets_of(settings))


def configure_as(level: str, log_format: str, *, secrets: Iterable[str] = ()) -> None:
    """As `configure`, for a process without settings."""
    redact = _Redaction(secrets)
    formatter = _JsonFormatter(redact) if log_format == "json" else _TextFormatter(redact)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


def _secrets_of(settings: Settings) -> set[str]:
    from pydantic import SecretStr

    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found.update(part.strip() for part in value.get_secret_value().split(","))
    for url in settings.alert_urls:
        found.update(_parts_of(url.get_secret_value()))
    return found


class _Redaction:
    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: a secret may contain another one.
        self._secrets = sorted({each for each in secrets if len(each) >= 8}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text


def _parts_of(url: str) -> set[str]:
    """An alert URL, and all parts of it that may be a token: most services have theirs in the path."""
    rest = url.partition("://")[2]
    parts = [part for part in re.split(r"[/?&=@:#,]+", rest) if not _HOST.fullmatch(part)]
    return {url, rest, *parts, *map(unquote, parts)}


class _TextFormatter(logging.Formatter):
    """`12:00:01.123 warning orchestrator.worker.process: message`; local time, for people."""

    def __init__(self, redact: _Redaction) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(level)-7s %(name)s: %(message)s", "%H:%M:%S")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        record.level = record.levelname.lower()
        text = super().format(record)
        # The traceback of another process, from `extra=`.
        traceback = getattr(record, "traceback", "")
        return self._redact(f"{text}\n{traceback.rstrip()}" if traceback else text)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: `time level logger message` and whatever came as `extra`."""

    def __init__(self, redact: _Redaction) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({name: value for name, value in vars(record).items() if name not in _USUAL and name != "level"})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(line, ensure_ascii=False, default=str))
