"""Pipelines: an input model and an ordered list of steps; and how they are loaded.

Pipelines are loaded from the entry-point group ``onelane.pipelines`` and from the modules in ``ONELANE_PIPELINES``. A
pipeline module has a list called ``PIPELINES``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from onelane.collisions import hidden_by_ours

from .step import Step

ENTRY_POINT_GROUP = "onelane.pipelines"
#: Loaded whatever is installed: onelane itself makes its jobs.
_BUILT_IN = ("actors.pipelines.webhook",)
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,47}")


class PipelineError(Exception):
    """A pipeline is declared wrongly or its module cannot be loaded; the message says which and why."""


class Pipeline:
    """An ordered list of steps over one input model.

    A job's `result` is the output of the last required step.

    Raises:
        PipelineError: no steps, two steps of one name, no required step, or a name out of shape.
    """

    def __init__(self, name: str, *, input: type[BaseModel], steps: Sequence[Step], description: str = "") -> None:
        if not NAME_PATTERN.fullmatch(name):
            raise PipelineError(f"pipeline {name!r}: the name must match {NAME_PATTERN.pattern}")
        if not steps:
            raise PipelineError(f"pipeline {name!r}: it has no steps")
        for each in steps:
            if not isinstance(each, Step):
                raise PipelineError(f"pipeline {name!r}: {each!r} is not a step; decorate the function with @step(...)")
        names = [each.name for each in steps]
        doubled = sorted({each for each in names if names.count(each) > 1})
        if doubled:
            raise PipelineError(f"pipeline {name!r}: two steps are named {', '.join(doubled)}")
        if not any(each.required for each in steps):
            raise PipelineError(f"pipeline {name!r}: at least one step must be required")
        self.name = name
        self.input = input
        self.steps = tuple(steps)
        self.description = description

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, steps={[each.name for each in self.steps]})"

    def step(self, name: str) -> Step:
        """The step of that name.

        Raises:
            KeyError: the pipeline has no such step (it was declared differently when the job was made).
        """
        for each in self.steps:
            if each.name == name:
                return each
        raise KeyError(f"pipeline {self.name!r} has no step {name!r}; it has {[each.name for each in self.steps]}")

    def actor_name(self, step: Step) -> str:
        """The name of the step's Dramatiq actor."""
        return f"{self.name}.{step.name}"

    @property
    def last_required(self) -> Step:
        return [each for each in self.steps if each.required][-1]

    def input_schema(self) -> dict[str, Any]:
        """The JSON schema (2020-12) of the input."""
        return self.input.model_json_schema()


def load_pipelines(modules: Iterable[str] = ()) -> Mapping[str, Pipeline]:
    """All pipelines of the installed entry points and of `modules`, and the webhook's, by name, read-only.

    Raises:
        PipelineError: a module cannot be imported, has no ``PIPELINES``, or two pipelines share a name.
    """
    named = [(f"entry point {point.name!r}", point.value) for point in entry_points(group=ENTRY_POINT_GROUP)]
    named += [("built in", module) for module in _BUILT_IN]
    named += [("ONELANE_PIPELINES", module) for module in modules]
    found: dict[str, Pipeline] = {}
    origins: dict[str, str] = {}
    for origin, module in dict.fromkeys(named):
        for pipeline in _pipelines_of(module, origin):
            if pipeline.name in found and found[pipeline.name] is not pipeline:
                raise PipelineError(
                    f"two pipelines are named {pipeline.name!r}: in {origins[pipeline.name]} and {module}"
                )
            found[pipeline.name] = pipeline
            origins[pipeline.name] = module
    return MappingProxyType(found)


def _pipelines_of(module: str, origin: str) -> list[Pipeline]:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise PipelineError(
            f"{origin}: module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    pipelines = getattr(loaded, "PIPELINES", None)
    theirs = hidden_by_ours(module) if pipelines is None else None
    if theirs is not None:
        raise PipelineError(f"{origin}: module {module!r} is onelane's own and hides {theirs}: give yours another name")
    if not isinstance(pipelines, list | tuple) or not all(isinstance(each, Pipeline) for each in pipelines):
        raise PipelineError(f"{origin}: module {module!r} must define PIPELINES, a list of actors.Pipeline")
    return list(pipelines)
