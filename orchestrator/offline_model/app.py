"""The offline model's HTTP service: Gemini's routes, answered without a network and without a model.

It accepts any key and any model name, and stores nothing. Bodies are limited, and articles are written on a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .article import write_article
from .faults import LONGEST_SECONDS, Fault, Faults, apply_fault, error_of
from .json_answer import fill
from .prompt import read_prompt
from .protocol import (
    MODEL_VERSION,
    Answer,
    BadRequest,
    GenerateRequest,
    error_body,
    limit_tokens,
    model_card,
    parse_request,
    streamed_answer,
    whole_answer,
)

#: Most bytes of a request; the limit of a job's sources is lower.
MAX_BODY = 8 * 1024 * 1024
_VERSIONS = ("v1", "v1beta")
_HEADERS = {"x-onelane-model": "offline model"}
_LOOPBACK = ("127.0.0.1", "::1")


def create_app(*, faults: Faults | None = None, control: bool = False) -> Starlette:
    """The service.

    Args:
        faults: a script of errors to inject, for tests.
        control: also serve `POST` and `DELETE /control/faults`, to callers on loopback only; never in production.
    """
    service = _Service(faults or Faults())
    routes = [
        Route("/", service.describe),
        Route("/healthz", service.describe),
        Route("/{version}/models", service.models),
        # Gemini's verbs are in the last segment: `name:generateContent`.
        Route("/{version}/models/{target}", service.model, methods=["GET"]),
        Route("/{version}/models/{target}", service.generate, methods=["POST"]),
    ]
    if control:
        routes.append(Route("/control/faults", service.script, methods=["POST", "DELETE"]))
    return Starlette(routes=routes)


class _Service:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def describe(self, request: Request) -> Response:
        return _json({"service": "onelane offline model", "version": MODEL_VERSION, "status": "ok"})

    async def models(self, request: Request) -> Response:
        if request.path_params["version"] not in _VERSIONS:
            return _not_found(request)
        return _json({"models": [model_card()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["version"] not in _VERSIONS or ":" in request.path_params["target"]:
            return _not_found(request)
        return _json(model_card())

    async def generate(self, request: Request) -> Response:
        _, _, verb = request.path_params["target"].rpartition(":")
        if request.path_params["version"] not in _VERSIONS or verb not in ("generateContent", "streamGenerateContent"):
            return _not_found(request)
        body = await _bounded_body(request)
        if body is None:
            return _error(413, "INVALID_ARGUMENT", f"Request payload size exceeds the limit: {MAX_BODY} bytes.")
        try:
            asked = parse_request(body)
        except BadRequest as error:
            return _error(400, "INVALID_ARGUMENT", str(error))
        fault = self._faults.take(asked.prompt)
        if fault is not None:
            early = await _answer_early(fault, request)
            if early is not None:
                return early
        answer = await run_in_threadpool(write_answer, asked)
        if fault is not None:
            answer = apply_fault(fault, answer)
        response_id = hashlib.sha256(body).hexdigest()[:22]
        pause = fault.seconds if fault is not None and fault.kind == "trickle" else None
        if verb == "generateContent":
            return _whole(whole_answer(answer, asked, response_id), pause)
        chunks = streamed_answer(answer, asked, response_id)
        return _stream(chunks, sse=request.query_params.get("alt") == "sse", pause=pause)

    async def script(self, request: Request) -> Response:
        """Add faults from a JSON list of `Fault` fields, or clear the script."""
        if request.client is None or request.client.host not in _LOOPBACK:
            return _error(403, "PERMISSION_DENIED", "Only callers on loopback may script faults.")
        if request.method == "DELETE":
            self._faults.clear()
            return _json({})
        body = await _bounded_body(request)
        try:
            given = [Fault(**each) for each in json.loads(body or b"[]")]
        except (TypeError, ValueError) as error:
            return _error(400, "INVALID_ARGUMENT", f"A list of faults is expected: {error}")
        self._faults.add(*given)
        return _json({"added": len(given)})


def write_answer(asked: GenerateRequest) -> Answer:
    """The ordinary answer to a request: text, or JSON of its schema."""
    article = write_article(read_prompt(asked.prompt))
    if asked.wants_json:
        text = json.dumps(fill(asked.schema, article), ensure_ascii=False)
    else:
        text = f"# {article.title}\n\n{article.body}"
    text, cut = limit_tokens(text, asked.max_output_tokens)
    return Answer(text, finish_reason="MAX_TOKENS" if cut else "STOP")


async def _answer_early(fault: Fault, request: Request) -> Response | None:
    """The answer of a fault without an article; None if the article follows."""
    error = error_of(fault)
    if error is not None:
        return _json(error[1], status_code=error[0])
    if fault.kind == "garbage":
        return Response("<html>upstream said no {", media_type="application/json", headers=_HEADERS)
    if fault.kind in ("slow", "hang"):
        seconds = fault.seconds if fault.kind == "slow" else LONGEST_SECONDS
        if await _client_gone(request, seconds) or fault.kind == "hang":
            return Response(status_code=504, headers=_HEADERS)
    return None


async def _client_gone(request: Request, seconds: float) -> bool:
    """Wait until the client disconnects, for at most `seconds`; False if it is still connected."""
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                continue
    except TimeoutError:
        return False
    return True


async def _bounded_body(request: Request) -> bytes | None:
    """The body; None if it is larger than `MAX_BODY`, without reading the rest."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _whole(body: dict[str, Any], pause: float | None) -> Response:
    if pause is None:
        return _json(body)
    return StreamingResponse(_dripped(_encode(body), pause), media_type="application/json", headers=_HEADERS)


def _stream(chunks: Iterable[dict[str, Any]], *, sse: bool, pause: float | None) -> Response:
    if sse:
        pieces = [b"data: " + _encode(chunk) + b"\r\n\r\n" for chunk in chunks]
    else:
        pieces = [b"[" + b",\r\n".join(map(_encode, chunks)) + b"]"]
    media_type = "text/event-stream" if sse else "application/json"
    drip = _dripped(b"".join(pieces), pause) if pause is not None else _each(pieces)
    return StreamingResponse(drip, media_type=media_type, headers=_HEADERS)


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _dripped(content: bytes, pause: float) -> AsyncIterator[bytes]:
    for index in range(len(content)):
        yield content[index : index + 1]
        await asyncio.sleep(pause)


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _json(body: dict[str, Any], status_code: int = 200) -> Response:
    return Response(_encode(body), status_code=status_code, media_type="application/json", headers=_HEADERS)


def _error(code: int, status: str, message: str) -> Response:
    return _json(error_body(code, status, message), status_code=code)


def _not_found(request: Request) -> Response:
    return _error(404, "NOT_FOUND", f"There is nothing at {request.url.path[:200]}.")


__all__ = ["MAX_BODY", "create_app", "write_answer"]
