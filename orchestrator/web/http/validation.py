"""Validates path, query and body with the route's models, and reports all faults together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ValidationError

from tenants.account import parse_account
from tenants.errors import Fault, InvalidAccount

from .json_parser import MAX_FAULTS
from .models import Query, complete
from .problems import invalid
from .routing import Route

M = TypeVar("M", bound=BaseModel)

#: Plain messages instead of pydantic's own.
_WORDS = {
    "extra_forbidden": "there is no such field",
    "missing": "it is missing",
    "dict_type": "it must be a JSON object",
    "model_type": "it must be a JSON object",
    "model_attributes_type": "it must be a JSON object",
    "list_type": "it must be an array",
    "string_type": "it must be a string",
    "int_type": "it must be an integer",
    "float_type": "it must be a number",
    "bool_type": "it must be true or false",
}
#: Most parameters of a query, several times what any call takes.
MAX_PARAMETERS = 50


def validate(
    route: Route, params: dict[str, str], query_string: bytes, body: Any, body_given: bool
) -> tuple[Query, BaseModel]:
    """The query and the body as their models (an empty one where the route has none).

    Raises:
        Problem: 422 with every fault.
    """
    faults: list[Fault] = []
    if "account" in params:
        try:
            parse_account(params["account"])
        except InvalidAccount as error:
            faults.append(Fault(("account",), str(error).removeprefix("account: ")))
    query = _query(route, query_string, faults)
    content = _body(route, body, body_given, faults)
    if faults or query is None or content is None:
        raise invalid(faults[:MAX_FAULTS])
    return query, content


def _query(route: Route, query_string: bytes, faults: list[Fault]) -> Query | None:
    model = route.query
    if not query_string:
        return _validated(model, {}, faults)
    pairs = query_string.split(b"&", MAX_PARAMETERS)
    if len(pairs) > MAX_PARAMETERS:
        faults.append(Fault((), f"the query has more than {MAX_PARAMETERS} parameters"))
        return None
    values: dict[str, str] = {}
    for pair in pairs:
        raw_name, _, raw_value = pair.partition(b"=")
        try:
            name, value = (unquote_to_bytes(each.replace(b"+", b" ")).decode("utf-8") for each in (raw_name, raw_value))
        except UnicodeDecodeError:
            faults.append(Fault((raw_name.decode("latin-1"),), "it is not UTF-8 once it is percent-decoded"))
            continue
        if "\x00" in name or "\x00" in value:
            faults.append(Fault((name.replace("\x00", "\\u0000"),), "the character U+0000 is not allowed"))
        elif name in values:
            faults.append(Fault((name,), "the parameter comes twice"))
        elif not value:
            faults.append(Fault((name,), "it is empty; leave the parameter out"))
        else:
            values[name] = value
    forms = _forms(model)
    for name, value in values.items():
        form, words = forms.get(name, (None, ""))
        if form is not None and not form.fullmatch(value):
            faults.append(Fault((name,), words))
    return None if faults else _validated(model, values, faults)


#: Numbers and booleans exactly as in JSON: `int` also accepts `1_0`, ` 10`, `+10` and digits of any script, so two
#: readers of one query could get different numbers.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,30})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,300})(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,4})?")
_BOOLEAN = re.compile(r"true|false")


@cache
def _forms(model: type[BaseModel]) -> dict[str, tuple[re.Pattern[str], str]]:
    """For each parameter that is not text: its pattern, and the message if it does not match."""
    found: dict[str, tuple[re.Pattern[str], str]] = {}
    for name, field in model.model_fields.items():
        kinds = _kinds(field.annotation)
        if bool in kinds:
            found[field.alias or name] = (_BOOLEAN, _WORDS["bool_type"])
        elif float in kinds:
            found[field.alias or name] = (_NUMBER, _WORDS["float_type"])
        elif int in kinds:
            found[field.alias or name] = (_INTEGER, _WORDS["int_type"])
    return found


def _kinds(annotation: Any) -> set[Any]:
    parts = get_args(annotation)
    return {annotation}.union(*map(_kinds, parts)) if parts and get_origin(annotation) is not Literal else {annotation}


def _body(route: Route, body: Any, given: bool, faults: list[Fault]) -> BaseModel | None:
    model = route.body_model
    if model is None:
        return Query()
    return _validated(model, body if given else {}, faults)


def _validated(model: type[M], value: Any, faults: list[Fault]) -> M | None:
    unknown = list(islice(_unknown_fields(model, value, ()), MAX_FAULTS + 1))
    if len(unknown) > MAX_FAULTS:  # pydantic would create a large error for each
        faults.extend(unknown)
        return None
    complete(model)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[:MAX_FAULTS]
        faults.extend(Fault(each["loc"], _message(each)) for each in found)
        return None


def _unknown_fields(model: type[BaseModel], value: Any, loc: tuple[str | int, ...]) -> Iterator[Fault]:
    """The fields that the model, or a model in one of its lists, does not have."""
    if not isinstance(value, dict):
        return
    known, lists = _fields(model)
    for name in value:
        if name not in known:
            yield Fault((*loc, name), _WORDS["extra_forbidden"])
    for name, part in lists.items():
        given = value.get(name)
        if isinstance(given, list):
            for index, each in enumerate(given):
                yield from _unknown_fields(part, each, (*loc, name, index))


@cache
def _fields(model: type[BaseModel]) -> tuple[frozenset[str], dict[str, type[BaseModel]]]:
    """The names of a model's fields, and those that are lists of models."""
    named = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    lists = {name: get_args(annotation)[0] for name, annotation in named.items() if get_origin(annotation) is list}
    return frozenset(named), {
        name: part for name, part in lists.items() if isinstance(part, type) and issubclass(part, BaseModel)
    }


def _message(fault: Any) -> str:
    words = _WORDS.get(fault["type"])
    if words is not None:
        return words
    message: str = fault["msg"]
    if fault["type"] == "value_error":
        return message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]
