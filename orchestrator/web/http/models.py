"""The base classes of all models, and types for times, names and lists.

Invariants
- Bodies are strict: no field is converted (``"5"`` is no number) and none is ignored. Query parameters are text, so
  these are converted.
- Every accepted value can be stored: times can be added to, numbers fit 64 bits.
- A model's validator is built at its first use, by `complete`, in one thread at a time: building all of them would take
  longer than the rest of a control plane's start.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tenants.account import MAX_ACCOUNT_CHARACTERS, parse_account
from tenants.errors import InvalidAccount, InvalidInput
from tenants.store.listings import CURSOR_PATTERNS, decode_place

from .docstrings import description_of

T = TypeVar("T")

#: Later times could overflow when a duration is added.
LATEST_YEAR = 2200
#: Ten years: the longest delay, expiry or deadline.
LONGEST_SECONDS = 10 * 366 * 86_400.0

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
#: A plus sign that was not percent-encoded in a query arrives as a space.
_LOST_PLUS = re.compile(r"(?<=\d) (?=\d\d:\d\d$)", re.ASCII)


_building = threading.RLock()


def complete(model: type[BaseModel]) -> None:
    """Build the model's validator once. Pydantic alone would build it in each of several concurrent threads."""
    if not model.__pydantic_complete__:
        with _building:
            model.model_rebuild()


class Shape(BaseModel):
    """Base of all models. A string below a field is its description."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, field in cls.model_fields.items():
            shown, text = properties.get(field.alias or name), description_of(cls, name)
            if shown is not None and text is not None:
                shown.setdefault("description", text)
        return schema


class Body(Shape):
    """Base of request bodies."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        ser_json_inf_nan="strings",
        defer_build=True,
    )


class Query(Shape):
    """Base of query parameters. `validation` checks that numbers and booleans are written as in JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Answer(Shape):
    """Base of answers. They are not validated when they are sent; tests do that."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    #: All fields are always sent; the schema says so.
    all_required: ClassVar[bool] = True


def _parse_time(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("it is not an RFC 3339 time with an offset, such as 2026-11-21T09:00:00+01:00")
    try:
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"there is no such time: {error}") from None
    if moment.year > LATEST_YEAR:
        raise ValueError(f"it is after the year {LATEST_YEAR}")
    return moment


def _parse_query_time(value: Any) -> Any:
    return _parse_time(_LOST_PLUS.sub("+", value) if isinstance(value, str) else value)


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _account(value: str) -> str:
    try:
        return parse_account(value)
    except InvalidAccount as error:
        raise ValueError(str(error).removeprefix("account: ")) from None


#: The pattern shows the limit `LATEST_YEAR` in the schema, and that leap seconds are refused.
_TIME_PATTERN = r"^([01]\d{3}|2[01]\d{2}|2200)-\d\d-\d\d[Tt ]\d\d:\d\d:[0-5]\d"
_TIME_SCHEMA = {"type": "string", "format": "date-time", "pattern": _TIME_PATTERN}
Time = Annotated[datetime, BeforeValidator(_parse_time), WithJsonSchema(_TIME_SCHEMA)]
QueryTime = Annotated[datetime, BeforeValidator(_parse_query_time), WithJsonSchema(_TIME_SCHEMA)]
#: JSON has one kind of number: `5.0` is the integer 5.
WHOLE = BeforeValidator(_integral)
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
ACCOUNT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ACCOUNT_CHARACTERS,
    # Without Unicode classes, which some regular expression engines lack.
    "pattern": r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f]+$",
}
AccountName = Annotated[str, AfterValidator(_account), WithJsonSchema(ACCOUNT_SCHEMA)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
#: A word of the caller's own, such as a tag.
Label = Annotated[str, Field(min_length=1, max_length=200)]
JsonObject = dict[str, Any]


def _cursor(kind: type[int | str]) -> Any:
    """A cursor of lists that are ordered by an int or a str."""

    def check(value: str) -> str:
        try:
            decode_place(value, kind)
        except InvalidInput as error:
            raise ValueError(str(error).removeprefix("cursor: ")) from None
        return value

    schema = {"type": "string", "pattern": CURSOR_PATTERNS[kind]}
    return Annotated[str, AfterValidator(check), WithJsonSchema(schema)]


class Paging(Query):
    """Parameters of every list."""

    limit: int = Field(default=50, ge=1, le=200)
    """Most items of the page."""
    cursor: _cursor(int) | None = None  # type: ignore[valid-type]
    """`next_cursor` of the page before."""


class NamePaging(Paging):
    """Parameters of lists in the order of a name or an id."""

    cursor: _cursor(str) | None = None  # type: ignore[valid-type]
    """`next_cursor` of the page before."""


class Listing(Answer, Generic[T]):
    """One page, newest first."""

    items: list[T]
    next_cursor: str | None = Field(description="The `cursor` of the next page; null at the end.")


class Items(Answer, Generic[T]):
    """A list that has no pages."""

    items: list[T]


class Nothing(Body):
    """A call that takes no fields."""


class ProblemError(Answer):
    """One fault."""

    loc: list[str | int]
    """The place: names and indexes from the outside in."""
    message: str


class ProblemDocument(Shape):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    type: str
    title: str
    status: int
    detail: str
    code: str
    """A stable identifier of the error."""
    errors: list[ProblemError] = Field(default_factory=list, description="Each fault, where there are several.")
