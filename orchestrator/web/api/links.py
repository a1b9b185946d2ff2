"""Links of the API's description: which calls take the ids of an answer.

They show a reader the calls that follow an answer, and lead a stateful API tester from a new job to every call on that
job. They follow from the paths: an id from a call below ``/v1/jobs`` fits ``{id}`` of every path below
``/v1/jobs/{id}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from ..http.models import Listing
from ..http.routing import Route
from .models.drafts import PublicationView
from .models.jobs import JobView


def links_of(route: Route, status: int, routes: Sequence[Route]) -> dict[str, Any]:
    """The links of one successful answer, by name."""
    source = _id_expression(route.answers[status])
    if source is None:
        return {}
    found = {}
    for target in _targets(_collection(route), routes):
        parameters = {"id": source}
        if "account" in target.template.parameters:
            parameters["account"] = "$request.path.account"
        found[f"{target.method.lower()}{_tail(target)}"] = {
            "operationId": target.operation_id,
            "parameters": parameters,
            "description": target.summary,
        }
    return found


def _id_expression(model: Any) -> str | None:
    """Where in the answer the id is that paths take."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    generic = model.__pydantic_generic_metadata__
    if generic["origin"] is Listing:
        item = generic["args"][0]
        has_id = isinstance(item, type) and issubclass(item, BaseModel) and "id" in item.model_fields
        return "$response.body#/items/0/id" if has_id else None
    return "$response.body#/id" if "id" in model.model_fields else None


def _collection(route: Route) -> str:
    """The path of the collection that an answer belongs to: ``/v1/jobs`` for every answer that is a job."""
    model = route.answers[min(route.answers)]
    if isinstance(model, type) and issubclass(model, JobView):
        return "/v1/jobs"
    if isinstance(model, type) and issubclass(model, PublicationView):
        return "/v1/admin/publications"
    path = route.path.partition(":")[0].removesuffix("/{id}")
    # Schedules are created below their account, but are not read there; an account's keys are.
    return path.replace("/accounts/{account}", "") if path.endswith("/schedules") else path


def _targets(collection: str, routes: Iterable[Route]) -> Iterable[Route]:
    below = f"{collection}/{{id}}"
    return (each for each in routes if each.path == below or each.path.startswith((f"{below}:", f"{below}/")))


def _tail(route: Route) -> str:
    words = route.path.partition("{id}")[2].strip(":/")
    return "_" + words.replace("/", "_").replace("-", "_") if words else ""
