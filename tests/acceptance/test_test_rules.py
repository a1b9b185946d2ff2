"""Rules for the tests themselves: what they may import and reach into, and how they are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT

PRODUCT = {"actors", "onelane", "orchestrator", "tenants"}
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "benchmarks" not in path.parts)
#: Private names that a test module may use, with the reason.
ALLOWED = {
    "_exit": "os._exit: the process ends as a crash ends it",
    "_value": "prometheus-client has no other way to read a counter",
    "_port": "a step that goes round its context, as a step's own code can",
    "_verbs": "the list of calls is compared with the documentation",
    "_hour": "the clock may strike while a test runs",
    "_http": "the client's connection is replaced by one that breaks off",
    "_client": "the test client of a failing application",
    "_jobs": "the export breaks off in the middle of its jobs",
    "_running": "the statement whose plan is looked at",
    "_Reader": "the event hub's reader is held up",
    "_own_faults": "the cost of a check is counted in its calls",
    "_message": "the cost of a check is counted in its calls",
    "_STRING": "the parser's pattern is compared with the standard library's",
    "_Parse": "the parser is compared with the standard library's",
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(module: ast.Module) -> Iterator[str]:
    """Names that begin with an underscore and that the module has not defined itself."""
    nodes = list(ast.walk(module))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PRODUCT:
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            values = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            yield from (part for value in values for part in str(value).split(".") if is_private(part))


def test_no_test_module_imports_another() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {node.module}"
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_")
    ]
    assert found == [], "move what they share into a support module"


def test_no_test_uses_a_private_name_without_a_reason() -> None:
    used = {str(path.relative_to(ROOT)): set(private_names(tree(path))) - set(ALLOWED) for path in TESTS}
    assert {path: names for path, names in used.items() if names} == {}


def test_the_name_of_a_test_has_at_most_75_columns_with_its_def() -> None:
    found = [
        node.name
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and len(f"def {node.name}") > 75
    ]
    assert found == []
