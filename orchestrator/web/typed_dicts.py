"""Writes `orchestrator/client/types/`: the answers' models as typed dicts, one module for each module of models.

    python -m orchestrator.web.typed_dicts orchestrator/client/types && ruff format orchestrator/client/types

The client must not import the service's models; a test compares the package with what this module writes.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from keyword import iskeyword
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel

from .api.models.accounts import AccountStatus, SessionStatus
from .api.models.drafts import DraftStatus
from .api.models.jobs import JobStatus, JobView, Outcome, StepStatus
from .api.models.schedules import CatchUp, Overlap
from .app import ROUTES
from .http.docstrings import description_of
from .http.models import Items, Listing, ProblemDocument

_WRITTEN = "Written by `python -m orchestrator.web.typed_dicts` from the service's models; not by hand."
_MODELS = JobView.__module__.rpartition(".")[0]
_ABOUT = "The shapes of the API's answers. Times are RFC 3339 text with offset, durations seconds, ids UUIDv7."
_TYPING = ("Any", "Literal", "NotRequired", "TypedDict")
_IN = "    "
#: Sets of words that several shapes share, by the module that gets them.
_WORDS = {
    "jobs": {"JobStatus": JobStatus, "StepStatus": StepStatus, "Outcome": Outcome},
    "drafts": {"DraftStatus": DraftStatus},
    "accounts": {"AccountStatus": AccountStatus, "SessionStatus": SessionStatus},
    "schedules": {"Overlap": Overlap, "CatchUp": CatchUp},
}
_WORD_NAMES = [(name, words) for group in _WORDS.values() for name, words in group.items()]
_PLAIN = {str: "str", int: "int", float: "float", bool: "bool", datetime: "str", date: "str", NoneType: "None"}


def write() -> dict[str, str]:
    """The package's modules by name, not formatted."""
    bodies: dict[str, list[str]] = {module: [] for module in _WORDS}
    names: dict[str, str] = {}
    for module, group in _WORDS.items():
        for name, words in group.items():
            bodies[module].append(f"{name} = {_literal(words)}")
            names[name] = module
    for model in _models():
        module = _module_of(model)
        bodies.setdefault(module, []).extend(("", "", *_typed_dict(model)))
        names[_name(model)] = module
    modules = {module: "\n".join((*_head(module, lines, names), *lines, "")) for module, lines in bodies.items()}
    ordered = sorted(names, key=lambda name: (names[name], name))
    exports = [f"from .{names[name]} import {name} as {name}" for name in ordered]
    return {"__init__": "\n".join((f'"""{_ABOUT}\n\n{_WRITTEN}\n"""\n', *exports, "")), **modules}


def _module_of(model: type[BaseModel]) -> str:
    """Models that an endpoint defines for itself belong to the calls for operators."""
    package, _, module = model.__module__.rpartition(".")
    return module if package == _MODELS else "operations"


def _head(module: str, lines: Iterable[str], names: Mapping[str, str]) -> Iterator[str]:
    used = set(re.findall(r"\w+", "\n".join(lines)))
    yield f'"""{module.capitalize()}. {_WRITTEN}"""\n'
    yield "from __future__ import annotations\n"
    yield f"from typing import {', '.join(name for name in _TYPING if name in used)}\n"
    for other in sorted({names[name] for name in used & names.keys()} - {module}):
        yield f"from .{other} import {', '.join(sorted(name for name in used if names.get(name) == other))}"


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
    for name, words in _WORD_NAMES:
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


def main(folder: Path) -> None:
    """Write the package's files."""
    for module, text in write().items():
        (folder / f"{module}.py").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
