"""The examples of the API's description: of answers, texts and problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..http import models as base
from ..http.problems import PROBLEMS
from ..http.routing import Route
from .example_answers import ANSWERS, ENDED, JOB_ID, PARTS
from .models import jobs
from .operations import Ready

#: Answers that are no JSON, by media type.
TEXTS: Mapping[str, str] = {
    "text/event-stream": 'id: 41\nevent: status\ndata: {"status":"running"}\n\n',
    "text/plain": "# TYPE onelane_jobs_accepted_total counter\nonelane_jobs_accepted_total 12.0\n",
    "text/html": "<!doctype html>…",
    "application/x-ndjson": '{"type":"header","format":"onelane account export","version":1,"account":"acme"}\n'
    '{"type":"account","data":{"id":"acme","status":"active"}}\n{"type":"end","counts":{"account":1}}\n',
    "application/octet-stream": "…",
}

#: Examples of an error's `detail`; the others use the title.
_DETAILS: Mapping[str, str] = {
    "malformed_json": "line 1, column 12: Expecting value",
    "unauthenticated": "the key is not known, has expired or was revoked",
    "forbidden": "this call needs a key with scope admin",
    "not_found": f"there is no job {JOB_ID!r}",
    "idempotency_conflict": "the idempotency key 'order-1184' was used with another body",
    "too_large": "the body is larger than 1048576 bytes",
    "unsupported_media_type": "the body's type is 'text/plain'; send application/json",
    "invalid_request": "priority: input should be less than or equal to 9",
    "unsafe_url": "'http://10.0.0.8/' leads to 10.0.0.8, a private address",
    "rate_limited": "too many calls with this key, the limit is 10000 per 10 second; wait 2 s",
    "queue_full": "account 'acme' has 1000 jobs waiting, and 1000 is its limit",
    "unavailable": "the database cannot be reached; nothing was accepted",
}


def problem_examples() -> dict[str, Any]:
    """Each code as the document that carries it, for `#/components/examples`."""
    return {
        code: {
            "summary": kind.title,
            "value": {
                "type": f"urn:onelane:problem:{code}",
                "title": kind.title,
                "status": kind.status,
                "detail": _DETAILS.get(code, kind.title),
                "code": code,
            },
        }
        for code, kind in PROBLEMS.items()
    }


def answer_example(route: Route, status: int) -> Any:
    """The route's example with this status; None without a body.

    Raises:
        LookupError: the model has no example.
    """
    model = route.answers[status]
    if model is None:
        return None if status in (204, 302) else TEXTS.get(route.media_type)
    example = _example_of(model)
    if status == 200 and 202 in route.answers and model is jobs.JobView and route.path.endswith(":cancel"):
        return {**example, "status": "cancelled", "finished_at": ENDED, "cancel_requested_at": ENDED}
    if model is Ready and status == 503:
        return {"status": "down", "parts": {**PARTS, "database": "down"}}
    return example


def _example_of(model: Any) -> Any:
    if model in ANSWERS:
        return ANSWERS[model]
    if isinstance(model, type) and issubclass(model, BaseModel):
        generic = model.__pydantic_generic_metadata__
        if generic["origin"] in (base.Listing, base.Items):
            page = {"items": [_example_of(generic["args"][0])]}
            return {**page, "next_cursor": None} if generic["origin"] is base.Listing else page
        extra = model.model_config.get("json_schema_extra")
        if isinstance(extra, dict) and "examples" in extra:
            examples: Any = extra["examples"]
            return examples[0]
    raise LookupError(f"no example is written for {model}; add one to {__name__}")
