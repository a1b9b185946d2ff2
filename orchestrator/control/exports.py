"""An account's export: lines of JSON, produced on demand.

    {"type": "header", "format": "onelane account export", "version": 1, "account": …, "exported_at": …, …}
    {"type": "job", "data": {…}}                      and so on, a line for each row
    {"type": "end", "counts": {"job": 120, …}}        a stream without it is incomplete

Invariant: memory does not grow with the account: one page of rows, and one file.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from tenants.database.transactions import Database
from tenants.store.removal import exports as store

from ..json_text import to_json

VERSION = 1
#: Lines are sent together once they have this size.
CHUNK_BYTES = 256 * 1024

_LEFT_OUT = {
    "session": "storage state and credentials are sealed and never exported; `sealed` names those that are stored",
    "webhook_secret": "the secrets themselves, as above",
    "key": "keys are stored as hashes, from which they cannot be recovered",
    "idempotency_key": "the answer that is stored for a repeated call, for a day; other lines have its content",
    "audit": "it is the installation's record of who did what, not the account's",
}


def chunks(database: Database, account: str, data_dir: Path) -> Generator[bytes]:
    """The export, in pieces of about `CHUNK_BYTES`, each of whole lines.

    Raises:
        NotFound: before the first piece: the account does not exist.
        Unavailable: at any piece: the database is unreachable, and the export incomplete.
    """
    lines: list[bytes] = []
    size = 0
    for line in _lines(database, account, data_dir):
        lines.append(to_json(line) + b"\n")
        size += len(lines[-1])
        if size >= CHUNK_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
    yield b"".join(lines)


def _lines(database: Database, account: str, data_dir: Path) -> Iterator[dict[str, Any]]:
    found = store.rows(database, account)
    first = next(found)  # before the header: an account that does not exist has no export
    yield {
        "type": "header",
        "format": "onelane account export",
        "version": VERSION,
        "account": account,
        "exported_at": datetime.now(UTC),
        "left_out": _LEFT_OUT,
    }
    counts: Counter[str] = Counter()
    for row in chain([first], found):
        counts[row.kind] += 1
        yield {"type": row.kind, "data": _with_file(data_dir, row.data) if row.kind == "artifact" else row.data}
    yield {"type": "end", "counts": dict(counts)}


def _with_file(data_dir: Path, artifact: dict[str, Any]) -> dict[str, Any]:
    """The artifact with its file instead of the path: a signed URL would expire before it is used."""
    shown = {name: value for name, value in artifact.items() if name != "path"}
    try:
        content = (data_dir / artifact["path"]).read_bytes()
    except FileNotFoundError:
        return {**shown, "content": None}
    return {**shown, "content": base64.b64encode(content).decode("ascii")}
