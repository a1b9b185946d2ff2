"""The string below a model's field, as the field's description.

It is read when the API's description is built. Pydantic would read it at the import of each model, which takes a fifth
of a control plane's start.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def description_of(model: type[BaseModel], field: str) -> str | None:
    """The field's description: that of its declaration, or the string below it in the class that declares it."""
    declared = model.model_fields[field].description
    if declared is not None:
        return declared
    owner = next((each for each in model.__mro__ if field in inspect.get_annotations(each)), None)
    return None if owner is None else _docstrings(owner.__module__).get((owner.__qualname__.partition("[")[0], field))


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """By class and field, for the classes of a module's first level."""
    found = {}
    for each in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(each, ast.ClassDef):
            continue
        for field, text in pairwise(each.body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if (
                isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[each.name, field.target.id] = inspect.cleandoc(text.value.value)
    return found
