"""Parses a model's answer as JSON of a given schema, and repairs unambiguous faults.

Repaired are: a Markdown fence or prose around the object, a comma before a closing bracket, raw line feeds inside a
string, the object in a list of one or in a string. An answer that was cut off is never completed: half an article would
be published. `docs/decisions/json-answers.md` says why no library is used.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import OutputTruncated, ProviderError

T = TypeVar("T", bound=BaseModel)

#: A whole string, so that its content stays unchanged; or a comma before a closing bracket.
_STRING_OR_LAST_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


def parse_answer(text: str, schema: type[T]) -> T:
    """The answer's text as the model.

    Raises:
        OutputTruncated: the text is the beginning of a JSON value.
        ProviderError: it is empty, no JSON, or does not match the schema.
    """
    if not text.strip():
        raise ProviderError("the model gave an empty answer")
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error
    repaired = _repaired(text)
    if repaired is not None:
        try:
            return schema.model_validate_json(repaired)
        except ValidationError as error:
            if not _is_no_json(error):
                raise _mismatch(error, schema) from None
            if _ends_early(error):
                first = error
    if not _is_no_json(first):
        raise _mismatch(first, schema)
    if _ends_early(first):
        raise OutputTruncated(f"the model's JSON breaks off after {len(text)} characters")
    raise ProviderError(f"the model's answer is not JSON: {first.errors()[0]['msg']}")


def _repaired(text: str) -> str | None:
    """The text as plain JSON, with wrapping and punctuation repaired; None if it has no object."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0:
        return None
    inside = text[begin : end + 1] if end > begin else text[begin:]
    inside = _STRING_OR_LAST_COMMA.sub(lambda found: found[1] or "", inside)
    try:
        # Not strict: raw line feeds inside strings are accepted.
        value: Any = json.loads(inside, strict=False)
    except (ValueError, RecursionError):
        value = _from_string(text)
        if value is None:
            return inside
    return json.dumps(value)


def _from_string(text: str) -> Any:
    """The object inside a JSON string, if the model encoded its answer twice; else None."""
    try:
        inner = json.loads(text, strict=False)
        return json.loads(inner, strict=False) if isinstance(inner, str) else None
    except (ValueError, RecursionError):
        return None


def _is_no_json(error: ValidationError) -> bool:
    return error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid"


def _ends_early(error: ValidationError) -> bool:
    # The parser's message for a text that ends too early.
    return "EOF while parsing" in error.errors(include_url=False, include_input=False)[0]["msg"]


def _mismatch(error: ValidationError, schema: type[BaseModel]) -> ProviderError:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    listed = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'answer'}: {each['msg']}" for each in faults[:5])
    return ProviderError(f"the model's answer does not match the schema of {schema.__name__}: {listed}")
