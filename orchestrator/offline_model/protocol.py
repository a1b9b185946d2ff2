"""Gemini's `generateContent` on the wire: requests in camelCase or snake_case, answers like Gemini's.

Other fields of a request than the used ones are ignored, as by a text model without tools. The shapes follow the public
REST reference and google-genai 3.4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MODEL_NAME = "offline-model"
MODEL_VERSION = "offline-model-1"


class BadRequest(Exception):
    """The request cannot be understood; the message says where."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """The used fields of a request."""

    prompt: str
    system: str
    #: The answer is to be JSON; `schema` may still be None.
    wants_json: bool
    schema: Mapping[str, Any] | None
    max_output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer, before it gets Gemini's shape."""

    text: str
    finish_reason: str = "STOP"
    #: Set when the prompt was blocked: then there is no candidate.
    block_reason: str = ""
    #: False: no candidate, and no reason given.
    has_candidate: bool = True


def parse_request(body: bytes) -> GenerateRequest:
    """Read a request's body.

    Raises:
        BadRequest: not JSON, or not of a request's shape.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Invalid JSON payload received: {error}") from None
    if not isinstance(data, dict):
        raise BadRequest("Invalid JSON payload received: an object is expected")
    config = _mapping(pick(data, "generationConfig"), "generationConfig")
    schema = pick(config, "responseJsonSchema")
    if schema is None:
        schema = pick(config, "responseSchema")
    if schema is not None and not isinstance(schema, dict):
        raise BadRequest("Invalid value at 'generation_config.response_schema': an object is expected")
    limit = pick(config, "maxOutputTokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise BadRequest("Invalid value at 'generation_config.max_output_tokens': a positive integer is expected")
    contents = data.get("contents")
    if not isinstance(contents, list | dict) or not contents:
        raise BadRequest("* GenerateContentRequest.contents: contents is not specified")
    listed = contents if isinstance(contents, list) else [contents]
    prompt = "\n".join(_texts(each) for each in listed if not isinstance(each, dict) or each.get("role") != "model")
    mime_type = pick(config, "responseMimeType")
    return GenerateRequest(
        prompt=prompt,
        system=_texts(pick(data, "systemInstruction") or {}),
        wants_json=mime_type == "application/json" or schema is not None,
        schema=schema,
        max_output_tokens=limit,
    )


def pick(data: Mapping[str, Any], name: str) -> Any:
    """A field by its camelCase name, in camelCase or snake_case; None when it is absent."""
    if name in data:
        return data[name]
    return data.get(re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name))


def count_tokens(text: str) -> int:
    """The estimated number of tokens, from the bytes of the text."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def limit_tokens(text: str, limit: int | None) -> tuple[str, bool]:
    """The text within a limit of tokens, and whether it was cut."""
    if limit is None or count_tokens(text) <= limit:
        return text, False
    return text.encode("utf-8", "replace")[: limit * 4].decode("utf-8", "ignore"), True


def whole_answer(answer: Answer, request: GenerateRequest, response_id: str) -> dict[str, Any]:
    """The body of a `generateContent` answer."""
    body: dict[str, Any] = {}
    if answer.block_reason:
        body["promptFeedback"] = {"blockReason": answer.block_reason}
    elif answer.has_candidate:
        candidate: dict[str, Any] = {"finishReason": answer.finish_reason, "index": 0}
        if answer.text:
            candidate = {"content": {"parts": [{"text": answer.text}], "role": "model"}, **candidate}
        body["candidates"] = [candidate]
    return body | _closing(answer, request, response_id)


def streamed_answer(answer: Answer, request: GenerateRequest, response_id: str) -> Iterator[dict[str, Any]]:
    """The chunks of a `streamGenerateContent` answer; the last has usage and finish reason."""
    size = 400
    pieces = [answer.text[begin : begin + size] for begin in range(0, len(answer.text), size)]
    for piece in pieces[:-1]:
        yield {
            "candidates": [{"content": {"parts": [{"text": piece}], "role": "model"}, "index": 0}],
            "modelVersion": MODEL_VERSION,
            "responseId": response_id,
        }
    last = Answer(pieces[-1] if pieces else "", answer.finish_reason, answer.block_reason, answer.has_candidate)
    body = whole_answer(last, request, response_id)
    yield body | _closing(answer, request, response_id)


def error_body(code: int, status: str, message: str, details: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Google's error model."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        error["details"] = details
    return {"error": error}


def model_card() -> dict[str, Any]:
    """The offline model's entry in a list of models."""
    return {
        "name": f"models/{MODEL_NAME}",
        "version": MODEL_VERSION,
        "displayName": "onelane offline model",
        "description": "Writes from the given sources alone; not a language model and not Gemini.",
        "inputTokenLimit": 1_000_000,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
    }


def _closing(answer: Answer, request: GenerateRequest, response_id: str) -> dict[str, Any]:
    tokens_in = count_tokens(request.system) + count_tokens(request.prompt)
    tokens_out = count_tokens(answer.text)
    usage = {"promptTokenCount": tokens_in, "totalTokenCount": tokens_in + tokens_out}
    if answer.has_candidate and not answer.block_reason:
        usage["candidatesTokenCount"] = tokens_out
    return {"usageMetadata": usage, "modelVersion": MODEL_VERSION, "responseId": response_id}


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"Invalid value at '{name}': an object is expected")
    return value


def _texts(content: Any) -> str:
    """The text parts of a content; other parts (images, files) are ignored."""
    if not isinstance(content, dict):
        raise BadRequest("Invalid value at 'contents': an object with parts is expected")
    parts = content.get("parts")
    listed = parts if isinstance(parts, list) else [parts] if isinstance(parts, dict) else []
    texts = [each.get("text") for each in listed if isinstance(each, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
