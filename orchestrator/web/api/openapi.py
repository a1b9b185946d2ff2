"""`/openapi.json`: OpenAPI 3.1 from the route table and the models that validate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from ..http.auth import Access
from ..http.models import ACCOUNT_SCHEMA, ProblemDocument, Query, complete
from ..http.problems import PROBLEM_JSON, PROBLEMS
from ..http.routing import Route
from .example_answers import JOB_ID
from .examples import answer_example, problem_examples
from .links import links_of

_REF = "#/components/schemas/{model}"
Mode = Literal["validation", "serialization"]

_DESCRIPTION = """\
Every account its own lane: each account's jobs one at a time, in order, apart from all others.

* JSON in UTF-8; times as RFC 3339 with offset; durations in seconds; ids are UUIDv7.
* In a path, `/` and `:` inside a name are percent-encoded; a literal `:` starts a verb.
* Errors are problem documents (RFC 9457) with a stable `code`.
* A creating POST takes an `Idempotency-Key`: a repeat within 24 hours gives the first answer.
"""

#: One sentence for each resource, in the order of the document.
_TAGS = {
    "Jobs": "A job is one run of a pipeline for an account. Its steps run in the account's tenant queues.",
    "Events": "Server-sent events of a job or of an account, resumable by `Last-Event-ID`.",
    "Drafts": "The text that a generate step wrote. A draft can be changed until it is published.",
    "Schedules": "Create jobs at given times: cron, intervals, lists of times, or random times of a day.",
    "Webhooks": "Signed calls at the end of a job, and the secret that signs them.",
    "Accounts": "An account is a tenant. It is made by its first job, schedule, key, session, target or limits.",
    "Keys": "API keys with the scope of one account.",
    "Pipelines": "The pipelines: steps, lanes, limits, and the JSON schema of the input.",
    "Queues": "Tenant queues: one lane of one account each.",
    "Lanes": "A lane is a kind of work over all accounts, such as `generate` or `publish`.",
    "Dead letters": "Steps that are not retried automatically: read, replay or discard them.",
    "Publications": "The publication ledger: settle unknown outcomes.",
    "Workers": "Live worker processes.",
    "Alerts": "Alerts that were sent, and open circuits.",
    "Audit": "Who changed what, when and from where. Append-only.",
    "Operations": "Health, readiness, metrics and this description. No key is needed.",
}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "account": {"description": "The account's id, percent-encoded.", "schema": ACCOUNT_SCHEMA, "example": "acme"},
    "id": {"description": "The id, as the API gave it.", "schema": {"type": "string"}, "example": JOB_ID},
    "lane": {"description": "The lane's name.", "schema": {"type": "string"}, "example": "publish"},
}
_KEY_PATTERN = r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$"
_RESPONSE_HEADERS: dict[str, dict[str, Any]] = {
    "Location": {"description": "The path of the new resource.", "schema": {"type": "string"}},
    "ETag": {"description": "The version, for `If-Match`.", "schema": {"type": "string"}},
}


def build(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The whole document."""
    shown = [route for route in routes if route.tag]
    schemas, definitions = _schemas(shown)
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shown, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "onelane",
            "version": version,
            "summary": "Every account its own lane.",
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": _tags({route.tag for route in shown}),
        "paths": paths,
        "components": {
            "schemas": definitions,
            "examples": problem_examples(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An admin key or an account's key."}
            },
        },
    }


def _tags(used: set[str]) -> list[dict[str, str]]:
    unknown = used - _TAGS.keys()
    if unknown:
        raise ValueError(f"write a sentence for {', '.join(sorted(unknown))} in _TAGS")
    return [{"name": name, "description": text} for name, text in _TAGS.items() if name in used]


def _schemas(routes: list[Route]) -> tuple[dict[tuple[Any, Mode], Any], dict[str, Any]]:
    """Each model's reference, and all definitions."""
    wanted: dict[tuple[type[BaseModel], Mode], None] = {(ProblemDocument, "serialization"): None}
    for route in routes:
        if route.body_model is not None:
            wanted[route.body_model, "validation"] = None
        for model in route.answers.values():
            if model is not None:
                wanted[model, "serialization"] = None
    for model, _ in wanted:
        if isinstance(model, type):
            complete(model)
    schemas, top = models_json_schema(list(wanted), ref_template=_REF)
    definitions: dict[str, Any] = top.get("$defs", {})
    for definition in definitions.values():
        _tidy(definition)
    return dict(schemas), definitions


def _tidy(schema: Any) -> None:
    """Remove the titles that only repeat a field's name."""
    if isinstance(schema, dict):
        for name, each in schema.get("properties", {}).items():
            if isinstance(each, dict) and str(each.get("title", "")).lower().replace(" ", "_") == name.lower():
                each.pop("title", None)
        for each in schema.values():
            _tidy(each)
    elif isinstance(schema, list):
        for each in schema:
            _tidy(each)


def _operation(route: Route, routes: list[Route], schemas: dict[tuple[Any, Mode], Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": _responses(route, routes, schemas),
    }
    if route.description:
        operation["description"] = route.description
    parameters = [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content: dict[str, Any] = {"schema": schemas[route.body, "validation"]}
        examples = route.body.model_config.get("json_schema_extra")
        if isinstance(examples, dict) and "examples" in examples:
            found: Any = examples["examples"]
            content["example"] = found[0]
        operation["requestBody"] = {"required": route.body_required, "content": {"application/json": content}}
    operation["security"] = [] if route.access is Access.PUBLIC else [{"key": []}]
    if route.access is not Access.PUBLIC:
        operation["x-access"] = "admin" if route.access is Access.ADMIN else "own"
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, **_PARAMETERS[name]} for name in route.template.parameters]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is Query:
        return []
    complete(route.query)
    schema = TypeAdapter(route.query).json_schema()
    definitions = schema.get("$defs", {})
    found = []
    for name, field in schema.get("properties", {}).items():
        field = dict(field)
        description = field.pop("description", "")
        field.pop("title", None)
        found.append(
            {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "schema": _without_null(field, definitions),
            }
            | ({"description": description} if description else {})
        )
    return found


def _without_null(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A query parameter can be left out, but is never null."""
    options = field.get("anyOf")
    if options is None:
        return _not_empty(field)
    kept = [option for option in options if option != {"type": "null"}]
    merged = {name: value for name, value in field.items() if name != "anyOf" and (name, value) != ("default", None)}
    for option in kept:
        merged.update(definitions[option["$ref"].rsplit("/", 1)[1]] if "$ref" in option else option)
    return _not_empty(merged)


def _not_empty(field: dict[str, Any]) -> dict[str, Any]:
    """No query parameter is empty (`validation` refuses it); a type with its own pattern says so already."""
    if field.get("type") == "string" and not field.keys() & {"enum", "const", "pattern", "format"}:
        return {"minLength": 1, **field}
    return field


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if route.creates:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Makes a repeat safe: for 24 hours it gets the first answer.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": _KEY_PATTERN},
                "example": "order-1184",
            }
        )
    if "stale_version" in route.codes:
        found.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": "precondition_required" in route.codes,
                "description": "The draft's version that was read, in quotes; `*` for any version.",
                "schema": {"type": "string", "pattern": r'^(\*|"?\d{1,18}"?)$'},
                "example": '"1"',
            }
        )
    return found


def _responses(route: Route, routes: list[Route], schemas: dict[tuple[Any, Mode], Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in sorted(route.answers.items()):
        answer: dict[str, Any] = {"description": _STATUS_WORDS[status]}
        if model is not None:
            shown = {"schema": schemas[model, "serialization"], "example": answer_example(route, status)}
            answer["content"] = {"application/json": shown}
        elif status not in (204, 302):
            answer["content"] = {route.media_type: _plain(route, status)}
        headers = {name: _RESPONSE_HEADERS[name] for name in route.headers}
        if headers:
            answer["headers"] = headers
        links = links_of(route, status, routes)
        if links:
            answer["links"] = links
        responses[str(status)] = answer
    by_status: dict[int, list[str]] = {}
    for code in route.error_codes():
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    problem = {"schema": schemas[ProblemDocument, "serialization"]}
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": " · ".join(f"`{code}`: {PROBLEMS[code].title}" for code in codes),
            "content": {
                PROBLEM_JSON: {
                    **problem,
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
                }
            },
        }
    return responses


def _plain(route: Route, status: int) -> dict[str, Any]:
    """A body without a model."""
    if route.media_type == "application/octet-stream":
        return {}  # OpenAPI 3.1's form for bytes
    example = answer_example(route, status)
    if route.media_type == "text/event-stream":  # OpenAPI 3.1 cannot describe the shape of one event
        return {"schema": {"description": "Server-sent events."}, "example": example}
    return {"schema": {}} if example is None else {"schema": {"type": "string"}, "example": example}


_STATUS_WORDS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "Done, without content",
    302: "Elsewhere",
    503: "Down",
}
