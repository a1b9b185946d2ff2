"""What schemathesis loads beside its own checks (`SCHEMATHESIS_HOOKS`); `test_document.py` runs it."""

from __future__ import annotations

import contextlib
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

#: Codes that tell of what a schema cannot say, so that a call can be refused though its form is right.
BEYOND_FORM = {
    "unknown_pipeline",
    "invalid_input",
    "invalid_schedule",
    "invalid_image",
    "unsafe_url",
}
#: Likewise faults of `invalid_request`, by their place: only the service knows which cursors it gave, and the names.
PLACES_BEYOND_FORM = {"cursor", "publisher", "lanes"}
#: Long enough for every way through the code, short enough for thousands of calls.
LONGEST_WAIT_SECONDS = 0.02


class RefusedForm(Failure):
    """What fits the description was refused for its form."""


@schemathesis.check
def right_form_is_taken(context: Any, response: Any, case: Any) -> None:
    """What fits the schema is not refused for its form; `positive_data_acceptance` takes every 422 for that."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE or response.status_code != 422:
        return
    problem = response.json()
    if problem["code"] in BEYOND_FORM:
        return
    faults = [each for each in problem.get("errors", []) if not _is_beyond_form(each)]
    if problem.get("errors") and not faults:
        return
    raise RefusedForm(
        operation=case.operation.label,
        title="What fits the description is refused",
        message=response.text,
        case_id=case.id,
    )


def _is_beyond_form(fault: dict[str, Any]) -> bool:
    """The whole API takes no U+0000, which no schema here repeats for each text; and a leap second is in RFC 3339."""
    if fault["loc"] and fault["loc"][0] in PLACES_BEYOND_FORM:
        return True
    return any(words in fault["message"] for words in ("U+0000", "there is no such time"))


@schemathesis.check
def wrong_form_is_refused(context: Any, response: Any, case: Any) -> bool | None:
    """`negative_data_rejection`, which does not see that a parameter may be empty (`allowEmptyValue`)."""
    if case.query and "" in case.query.values():
        return None
    found: bool | None = negative_data_rejection(context, response, case)
    return found


@schemathesis.hook
def before_call(context: Any, case: Any, **more: Any) -> None:
    """Keep the form, and change values that would lead nowhere: no drawn text is the name of a pipeline."""
    body = case.body
    if isinstance(body, dict):
        batch = body.get("jobs")
        for each in [body, *(batch if isinstance(batch, list) else [])]:
            _give_sense(each)
    wait = case.query.get("wait") if case.query else None
    with contextlib.suppress(TypeError, ValueError):  # no number: to be refused as it is
        if wait is not None and LONGEST_WAIT_SECONDS < float(wait) <= 60:
            case.query["wait"] = LONGEST_WAIT_SECONDS


#: Values that make sense to the service that the tests start.
SENSIBLE: dict[str, Any] = {
    "pipeline": "sample",
    "input": {"topic": "bees"},
    "callback_url": "http://127.0.0.1:9999/hook",
    "publisher": "wordpress",
    "base_url": "http://127.0.0.1:9999",
    "cron": "0 9 * * 1-5",
    "timezone": "Europe/Berlin",
}


def _give_sense(body: Any) -> None:
    """One body in four stays as it is drawn; a value that is not of the right form stays in any case."""
    if not isinstance(body, dict) or len(str(body)) % 4 == 0:
        return
    for name, value in SENSIBLE.items():
        given: Any = body.get(name)
        if type(given) is type(value) and 1 <= len(given) <= 100:
            body[name] = value
