"""A job's artifacts: their list, and the files by signed addresses that expire.

Invariants
- A signed address that has not expired is enough to get a file; no key is needed.
- No file is rendered as a page: a step may have written it from the content of a foreign site.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from tenants.errors import NotFound
from tenants.store.publishing import artifacts as store

from ..http.auth import Access
from ..http.models import Items, Query
from ..http.problems import Problem
from ..http.routing import Call, Reply, Route
from .models.jobs import ArtifactQuery, ArtifactView

#: How long an address of a file can be used.
URL_SECONDS = 900.0
#: What a browser may show inline; it saves any other type.
_SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "text/plain"})
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}", re.ASCII)


def list_artifacts(call: Call[Query, Any]) -> Reply:
    service, job_id = call.service, call.params["id"]
    service.jobs.status(job_id, call.owner)
    rows = service.database.read(lambda connection: store.of_job(connection, job_id))
    shown = ("name", "content_type", "size", "step", "created_at")
    items = [
        {**{name: row[name] for name in shown}, "url": service.signer.sign(_path(row["id"]), seconds=URL_SECONDS)}
        for row in rows
    ]
    return Reply({"items": items})


def get_artifact(call: Call[ArtifactQuery, Any]) -> Response:
    service, artifact_id, query = call.service, call.params["id"], call.query
    if not service.signer.is_valid(_path(artifact_id), query.expires, query.signature):
        raise Problem("forbidden", "the address has a wrong signature or has expired; list the job's artifacts again")
    row = service.database.read(lambda connection: store.fetch(connection, artifact_id))
    try:
        content = (service.settings.data_dir / row["path"]).read_bytes()
    except FileNotFoundError:
        message = f"artifact {artifact_id!r} is not on this host: its file is on the host of the worker that made it"
        raise NotFound(message) from None
    return Response(content, headers=_headers(row))


def _headers(row: Mapping[Any, Any]) -> dict[str, str]:
    given = str(row["content_type"]).partition(";")[0].strip().lower()
    media_type = given if _MEDIA_TYPE.fullmatch(given) else "application/octet-stream"
    disposition = "inline" if media_type in _SHOWN else "attachment"
    return {
        "Content-Type": f"{media_type}; charset=utf-8" if media_type == "text/plain" else media_type,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(row['name'], safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    }


def _path(artifact_id: str) -> str:
    return f"/v1/artifacts/{quote(artifact_id, safe='')}"


_route = partial(Route, tag="Jobs", access=Access.OWN)

ROUTES = [
    _route(
        "GET",
        "/v1/jobs/{id}/artifacts",
        list_artifacts,
        "List a job's artifacts",
        {200: Items[ArtifactView]},
        description=(
            "Evidence such as screenshots, oldest first. Each `url` opens its file without a key for "
            f"{URL_SECONDS / 60:.0f} minutes."
        ),
    ),
    _route(
        "GET",
        "/v1/artifacts/{id}",
        get_artifact,
        "Download an artifact by its signed address",
        {200: None},
        access=Access.PUBLIC,
        query=ArtifactQuery,
        codes=("forbidden", "not_found", "invalid_request", "unavailable"),
        media_type="application/octet-stream",
    ),
]
