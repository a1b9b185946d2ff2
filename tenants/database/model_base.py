"""What the tables share: their base and metadata, ids, and kinds of columns and indexes."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import uuid_utils
from sqlalchemy import Column, Index, MetaData, Table, text
from sqlmodel import SQLModel

from .columns import UtcTime, exact_text

#: Names for every constraint, so that a migration can name what it changes.
NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Model(SQLModel):
    """Base of the tables, with metadata of their own."""

    if TYPE_CHECKING:
        __table__: ClassVar[Table]

    metadata = MetaData(naming_convention=NAMING)


def new_id() -> str:
    """A UUIDv7, which sorts by its time."""
    return str(uuid_utils.uuid7())


def derived_id(seed: str, *of: object) -> str:
    """The UUIDv7 that is derived from a seed (itself one) and these values: the same for the same."""
    digest = hashlib.sha256("\0".join((seed, *map(str, of))).encode()).digest()
    number = uuid.UUID(seed).int >> 80 << 80 | int.from_bytes(digest[:10])
    number = number & ~(0xF << 76) | 7 << 76  # the version
    return str(uuid.UUID(int=number & ~(0b11 << 62) | 0b10 << 62))  # the variant


def time_column(*, nullable: bool = True, index: bool = False) -> Column[Any]:
    return Column(UtcTime(), nullable=nullable, index=index)


def account_column() -> Column[Any]:
    return Column(exact_text(), nullable=False)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows that meet a condition, on both databases."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))
