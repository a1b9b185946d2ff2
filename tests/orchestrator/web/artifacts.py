"""An artifact of a job, saved as a step saves it."""

from __future__ import annotations

import base64
from typing import Any

from orchestrator.runtime import Runtime
from tests.support.ports import step_port

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(20)


def save(runtime: Runtime, owned: Any, name: str, content_type: str, content: bytes) -> None:
    """As a step does it."""
    port = step_port(runtime, owned)
    data = base64.b64encode(content).decode()
    port.call("artifact.save", {"name": name, "content_type": content_type, "data": data})
