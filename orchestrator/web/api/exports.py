"""The export of an account, as a stream of lines."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator
from contextlib import closing
from typing import Any

from starlette.responses import Response, StreamingResponse

from tenants.errors import Unavailable

from ...control import exports
from ...json_text import to_json
from ..http.audit_log import note
from ..http.auth import Access
from ..http.models import Query
from ..http.problems import problem_of
from ..http.routing import Call, Route
from ..http.service import Service

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/x-ndjson"


async def export_account(call: Call[Query, Any]) -> Response:
    """Stream the export. The first piece is read before the answer starts, so that errors get their own status.

    When the client disconnects, the stream ends and reads no more.
    """
    service, account = call.service, call.account
    headers = {"Content-Type": MEDIA_TYPE, "Content-Disposition": 'attachment; filename="account.ndjson"'}
    made = exports.chunks(service.database, account, service.settings.data_dir)
    first = await service.in_thread(lambda: next(made))
    if call.request.method == "HEAD":
        return Response(headers=headers)
    answer = StreamingResponse(_stream(service, account, first, made), headers=headers)
    await service.in_thread(lambda: note(_ROUTE, call, answer))
    return answer


async def _stream(service: Service, account: str, first: bytes, made: Generator[bytes]) -> AsyncIterator[bytes]:
    piece: bytes | None = first
    with closing(made):
        while piece is not None:
            yield piece
            try:
                piece = await service.in_thread(lambda: next(made, None))
            except Unavailable as error:
                log.warning("the export of account %r was cut: %s", account, error)
                problem = problem_of(error)
                yield to_json({"type": "error", "code": problem.code, "detail": problem.detail}) + b"\n"
                return


_ROUTE = Route(
    "GET",
    "/v1/accounts/{account}:export",
    export_account,
    "Export all data of the account",
    {200: None},
    tag="Accounts",
    access=Access.ADMIN,
    media_type=MEDIA_TYPE,
    description=(
        "Lines of JSON: a `header`, then `{type, data}` for each row, at last `{type: end, counts}`; a stream "
        "without that end was cut, and an `error` line says why where that is known. Files are base64 in their line; "
        "sealed and hashed values are left out. It is no snapshot: rows are as they were when they were read, and "
        "rows made after the header are left out. The audit notes who exported."
    ),
)
ROUTES = [_ROUTE]
