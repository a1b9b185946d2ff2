"""What schemathesis loads (`SCHEMATHESIS_HOOKS`); `test_document.py` runs it. It brings no check of its own.

A schema cannot say which pipelines are loaded, which hosts may be called, or which times a schedule comes to. Those
values are given in calls that are right in form, so that such calls are taken, as the check for it demands; calls that
are wrong in form stay as they are.
"""

from __future__ import annotations

import contextlib
from typing import Any

import schemathesis
from schemathesis.generation.modes import GenerationMode

#: Long enough for every way through the code, short enough for thousands of calls.
LONGEST_WAIT_SECONDS = 0.02
#: Values that make sense to the service that the tests start.
SENSIBLE: dict[str, Any] = {
    "pipeline": "sample",
    "input": {"topic": "bees"},
    "callback_url": "http://127.0.0.1:9999/hook",
    "publisher": "wordpress",
    "base_url": "http://127.0.0.1:9999",
    "timezone": "Europe/Berlin",
    "cron": "0 9 * * 1-5",
    "every": 3600.0,
    "at": ["2100-01-01T00:00:00Z"],
    "spread": {"per_day": 3, "window": ["09:00", "21:00"], "min_gap": 0},
    "inputs": [{"topic": "bees"}],
}
CADENCES = ("cron", "every", "at", "spread")


@schemathesis.hook
def before_call(context: Any, case: Any, **more: Any) -> None:
    _shorten_wait(case)
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    _order_days(case.query)
    if case.query:
        case.query.update(_without_nul(dict(case.query)))
    body = case.body
    if isinstance(body, dict):
        case.body = body = _without_nul(body)
        for each in [body, *(body["jobs"] if isinstance(body.get("jobs"), list) else [])]:
            _give_sense(each)


def _shorten_wait(case: Any) -> None:
    wait = case.query.get("wait") if case.query else None
    with contextlib.suppress(TypeError, ValueError):  # no number: to be refused as it is
        if wait is not None and LONGEST_WAIT_SECONDS < float(wait) <= 60:
            case.query["wait"] = LONGEST_WAIT_SECONDS


def _without_nul(value: Any) -> Any:
    """No call has U+0000 in it; to say so for each text would hide what a schema is to report."""
    if isinstance(value, str):
        return value.replace("\x00", "0")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return value


def _give_sense(body: Any) -> None:
    if not isinstance(body, dict):
        return
    for name, value in SENSIBLE.items():
        if body.get(name) is not None:
            body[name] = value
    if body.get("pipeline") is not None and body.get("inputs") is None:
        body["input"] = SENSIBLE["input"]
    if "input" in body:
        body.pop("inputs", None)
    given = [name for name in CADENCES if body.get(name) is not None]
    for name in CADENCES:
        if name in body and name not in given[:1]:
            del body[name]
    if body.get("spread") is not None or "jitter" in body:
        body["jitter"] = 0
    body.pop("ends_at", None)
    lanes = body.get("lanes")
    if isinstance(lanes, dict) and lanes:
        body["lanes"] = {"publish": next(iter(lanes.values()))}


def _order_days(query: Any) -> None:
    """`from` is not after `to`, nor long before it."""
    if query and "from" in query:
        query["to"] = query["from"]
