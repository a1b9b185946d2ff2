"""How the database comes by a list: its plan with what each part really read, on PostgreSQL and on SQLite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, event

from tenants.database.transactions import Database


@dataclass(frozen=True)
class Plan:
    """One statement's plan."""

    statement: str
    #: Kinds of node, such as `Index Scan`, with their table, from the outside in; SQLite's own sentences there.
    nodes: tuple[str, ...]
    #: Tables that were gone through from end to end.
    scanned: tuple[str, ...]
    #: Rows that went into the greatest sort; on SQLite, which does not count, 0.
    sorted_rows: int
    #: Rows that were read and thrown away by a condition; likewise.
    discarded_rows: int


@contextmanager
def _recorded(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    found: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.append((statement, parameters))

    event.listen(connection.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(connection.engine, "before_cursor_execute", note)


def plans_of(database: Database, ask: Callable[[Connection], Any]) -> list[Plan]:
    """The plans of every statement with which a list is read, in their order."""

    def read(connection: Connection) -> list[Plan]:
        with _recorded(connection) as statements:
            ask(connection)
        explain = _on_postgresql if database.dialect == "postgresql" else _on_sqlite
        return [explain(connection, statement, parameters) for statement, parameters in statements]

    return database.read(read)


def _on_postgresql(connection: Connection, statement: str, parameters: Any) -> Plan:
    found = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    document = json.loads(found) if isinstance(found, str) else found
    nodes = list(_nodes(document[0]["Plan"]))
    return Plan(
        statement,
        tuple(
            f"{node['Node Type']} {node.get('Index Name') or node.get('Relation Name') or ''}".strip() for node in nodes
        ),
        tuple(node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"),
        max((_rows(child) for node in nodes if "Sort" in node["Node Type"] for child in node["Plans"]), default=0),
        sum(int(node.get("Rows Removed by Filter", 0) * node["Actual Loops"]) for node in nodes),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _rows(node: dict[str, Any]) -> int:
    return int(node["Actual Rows"] * node["Actual Loops"])


def _on_sqlite(connection: Connection, statement: str, parameters: Any) -> Plan:
    details = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    # A scan in the order of the key or an index ends with the list's limit, unless a sort must see all of it first.
    sorts = any(each.startswith("USE TEMP B-TREE FOR ORDER BY") for each in details)
    scanned = tuple(each.split()[1] for each in details if each.startswith("SCAN") and sorts)
    return Plan(statement, tuple(details), scanned, 0, 0)
