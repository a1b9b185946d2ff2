"""Publications of unknown outcome, settled by a person who has checked the target.

They are listed as drafts that need review: `GET /v1/drafts?status=needs_review` shows each with its publication.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tenants.store.publishing import publications as store

from ..http.auth import Access
from ..http.models import Nothing, Query
from ..http.routing import Call, Reply, Route
from .models.drafts import PublicationFound, PublicationView

_SHOWN = tuple(PublicationView.model_fields)


def confirm(call: Call[Query, PublicationFound]) -> Reply:
    """The post exists: the job continues as if the publisher had confirmed it, and publishes nothing."""
    found = call.body
    return _settled(call, url=found.url, external_id=found.external_id)


def retry(call: Call[Query, Nothing]) -> Reply:
    """The post does not exist: the job publishes again."""
    return _settled(call)


def _settled(call: Call[Any, Any], *, url: str | None = None, external_id: str | None = None) -> Reply:
    entry = call.service.jobs.settle_publication(call.params["id"], url=url, external_id=external_id)
    shown = {name: entry[name] for name in _SHOWN}
    after = {"status": "confirmed" if url is not None else "intent", "url": url, "external_id": external_id}
    return Reply(shown, audit={"before": {"status": "unknown"}, "after": after})


def exists(call: Call[Any, Any]) -> None:
    """Raises `NotFound` unless the publication of the path exists."""
    call.service.database.read(lambda connection: store.by_id(connection, call.params["id"]))


_PUBLICATION = "/v1/admin/publications/{id}"
_CODES = ("publication_not_unknown", "job_not_retryable")

_route = partial(Route, tag="Publications", access=Access.ADMIN)

ROUTES = [
    _route(
        "POST",
        f"{_PUBLICATION}:confirm",
        confirm,
        "Confirm a publication of unknown outcome: the post exists",
        {200: PublicationView},
        body=PublicationFound,
        codes=_CODES,
        exists=exists,
        description=(
            "The draft becomes `published`, and the job continues without publishing. "
            "Drafts with the status `needs_review` show their publication."
        ),
    ),
    _route(
        "POST",
        f"{_PUBLICATION}:retry",
        retry,
        "Retry a publication of unknown outcome: the post does not exist",
        {200: PublicationView},
        codes=_CODES,
        exists=exists,
        description="The draft becomes `pending_publish`, and the job publishes again, once.",
    ),
]
