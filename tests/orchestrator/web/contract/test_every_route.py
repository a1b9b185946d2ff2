"""Each route that is served has a test in this folder, which names it by method and path."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.orchestrator.web.conftest import Api


def test_every_served_route_has_one_test_and_every_tested_route_is_served(api: Api) -> None:
    paths = api.with_key(None).get("/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    tested = Counter(name for text in texts for name in re.findall(r'\broute\("([A-Z]+ /[^"]*)"\)', text))
    assert served - set(tested) == set(), "write a test for each of these"
    assert set(tested) - served == set()
    assert [name for name, number in tested.items() if number > 1] == []
