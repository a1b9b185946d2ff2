"""Writes `orchestrator/client/types.py`: the answers' models as typed dicts, so that a client's types are what runs.

    python -m orchestrator.web.typed_dicts | ruff format - > orchestrator/client/types.py

The client must not import the server's models, which a caller's process has no use for; a test holds the two together.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from datetime import date, datetime
from keyword import iskeyword
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel

from .app import ROUTES
from .models.accounts import AccountStatus, SessionStatus
from .models.base import Items, Listing, ProblemDocument
from .models.docstrings import description_of
from .models.drafts import DraftStatus
from .models.jobs import JobStatus, Outcome, StepStatus
from .models.schedules import CatchUp, Overlap

_HEAD = '''"""The shapes of the API's answers. Times are RFC 3339 text with offset, durations seconds, ids UUIDv7.

Written by `python -m orchestrator.web.typed_dicts` from the models that the service answers with; not by hand.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict
'''
_IN = "    "
#: Words that several shapes share have a name.
_WORDS = {
    "JobStatus": JobStatus,
    "StepStatus": StepStatus,
    "Outcome": Outcome,
    "DraftStatus": DraftStatus,
    "AccountStatus": AccountStatus,
    "SessionStatus": SessionStatus,
    "Overlap": Overlap,
    "CatchUp": CatchUp,
}
_PLAIN = {str: "str", int: "int", float: "float", bool: "bool", datetime: "str", date: "str", NoneType: "None"}


def write() -> str:
    """The whole module, not formatted."""
    lines = [_HEAD]
    for name, words in _WORDS.items():
        lines.append(f"{name} = {_literal(words)}")
    for model in _models():
        lines.extend(("", "", *_typed_dict(model)))
    return "\n".join(lines) + "\n"


def _models() -> list[type[BaseModel]]:
    """The models of all answers, each after those that it names."""
    found: dict[type[BaseModel], None] = {}

    def add(annotation: Any) -> None:
        for part in get_args(annotation):
            add(part)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)) or annotation in found:
            return
        generic = annotation.__pydantic_generic_metadata__
        if generic["origin"] in (Items, Listing):
            add(generic["args"][0])  # the client gives the items one by one
            return
        for base in annotation.__mro__[1:]:
            if _is_shape(base):
                add(base)
        for each in annotation.model_fields.values():
            add(each.annotation)
        found[annotation] = None

    for route in ROUTES:
        for model in route.answers.values():
            if model is not None and model is not ProblemDocument:
                add(model)
    return list(found)


def _is_shape(base: type[Any]) -> TypeGuard[type[BaseModel]]:
    return issubclass(base, BaseModel) and bool(base.model_fields)


def _typed_dict(model: type[BaseModel]) -> Iterable[str]:
    bases = [base for base in model.__mro__[1:] if _is_shape(base)]
    inherited = bases[0].model_fields if bases else {}
    base = _name(bases[0]) if bases else "TypedDict"
    fields = {each.alias or name: each for name, each in model.model_fields.items() if name not in inherited}
    attributes = {each.alias or name: name for name, each in model.model_fields.items()}
    unspeakable = [name for name in fields if iskeyword(name)]
    if unspeakable:  # a class cannot have a field of that name
        base = f"_{_name(model)}"
        words = ", ".join(f"{name!r}: {_type(fields[name].annotation)}" for name in unspeakable)
        yield from (f"{base} = TypedDict({base!r}, {{{words}}})", "", "")
    yield f"class {_name(model)}({base}):"
    yield _text(model.__doc__ or "")
    yield ""
    for name, each in fields.items():
        if name in unspeakable:
            continue
        shown = _type(each.annotation)
        yield f"    {name}: {shown if each.is_required() else f'NotRequired[{shown}]'}"
        description = description_of(model, attributes[name])
        if description:
            yield _text(description)


def _text(description: str) -> str:
    quoted = f'"""{" ".join(description.split())}"""'
    return textwrap.fill(quoted, 118, initial_indent=_IN, subsequent_indent=_IN, break_long_words=False)


def _name(model: type[BaseModel]) -> str:
    return model.__name__.removesuffix("View")


def _type(annotation: Any) -> str:
    for name, words in _WORDS.items():
        if annotation == words:
            return name
    if annotation is Any:
        return "Any"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return _literal(annotation)
    if origin in (Union, UnionType):
        return " | ".join(_type(part) for part in parts)
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(_type(part) for part in parts)}]"
    return _PLAIN.get(annotation) or _name(annotation)


def _literal(words: Any) -> str:
    return f"Literal[{', '.join(repr(word) for word in get_args(words))}]"


if __name__ == "__main__":
    sys.stdout.write(write())
