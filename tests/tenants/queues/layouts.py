"""What the broker of commit 79505e3 left in its keys (`archives/make_79505e3.py`), restored to a server."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.tenants.queues.lanes import Client

ARCHIVE = Path(__file__).parent / "archives" / "79505e3.json"


def restore(client: Client, rename: tuple[str, str] = ("", "")) -> None:
    """The keys of the archive; `rename` exchanges the beginning of their names."""
    for name, payload in json.loads(ARCHIVE.read_text())["keys"].items():
        key = base64.b64decode(name).replace(rename[0].encode(), rename[1].encode(), 1)
        client.restore(key, 0, base64.b64decode(payload), replace=True)
