"""Detects collisions of our package names with a user's, and reports the files and the solutions.

`actors`, `orchestrator` and `tenants` are common names, and Python imports the first one on its path. At the service's
start, `hidden` reports what hides our packages. In every other process of an environment with onelane (`dramatiq`, a
web server that sends messages) `onelane-collisions.pth` installs the finders, which act only when an import fails.

Every Python of the environment imports this module, so it imports only modules that are already loaded.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

OURS = ("actors", "orchestrator", "tenants")
_BESIDE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: The folder of our packages: beside this one if installed; in a checkout this one is in `deploy/python`.
_HOME = _BESIDE if os.path.isdir(os.path.join(_BESIDE, "orchestrator")) else os.path.dirname(os.path.dirname(_BESIDE))
_WAYS_OUT = (
    "Rename yours, or put it into a package of another name (myproject/{name}, imported as myproject.{name}). For the "
    "broker alone install onelane-queues, whose import name is onelane_queues. docs/pipelines.md has more"
)


def hidden() -> list[str]:
    """A sentence for each of our packages that another module hides."""
    sentences = []
    for name in OURS:
        theirs = _file_of(PathFinder.find_spec(name))
        if theirs is None or not _is_ours(theirs, name):
            sentences.append(_hides(theirs or "nothing at all", name))
    return sentences


def hidden_by_ours(name: str) -> str | None:
    """Another module or package with one of our names, later on the path."""
    top, _, rest = name.partition(".")
    if top not in OURS:
        return None
    found = [file for folder in dict.fromkeys(sys.path) if (file := _in_folder(folder or os.getcwd(), top))]
    theirs = [file for file in found if not _is_ours(file, top)]
    # If there are several, the one that has the requested module.
    return next((file for file in theirs if rest and _has(file, rest)), theirs[0] if theirs else None)


def explain(name: str) -> str | None:
    """Why a module below one of our names cannot be imported; None if it is not for a collision."""
    top, _, rest = name.partition(".")
    loaded = sys.modules.get(top)
    if top not in OURS or loaded is None:
        return None
    file = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), "")
    if _is_ours(file, top):
        theirs = hidden_by_ours(name)
        if theirs is None:
            return None
        return f"No module named {name!r}: {theirs} is hidden by onelane's package {_HOME}/{top}. {_ways_out(theirs)}"
    if _has(os.path.join(_HOME, top, "__init__.py"), rest):
        return f"No module named {name!r}: {_hides(file, top)}"
    return None


class Finder:
    """At the end of `sys.meta_path`: explains why a module of ours, or one that ours hides, was not found."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        sentence = explain(name) if path is not None else None
        if sentence is not None:
            raise ModuleNotFoundError(sentence, name=name)
        return None


class CommandFinder:
    """At the head of `sys.meta_path` in the `dramatiq` command.

    If `tenants` is a single file, Python calls no finder for `tenants.queues`, and its error names no file.
    """

    _has_warned = False

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "tenants" and "dramatiq.cli" in sys.modules and not cls._has_warned:
            cls._has_warned = True
            theirs = _file_of(PathFinder.find_spec(name))
            is_module = theirs is not None and os.path.basename(theirs) != "__init__.py"
            if theirs is not None and is_module and PathFinder.find_spec("onelane_queues") is None:
                sys.stderr.write(f"onelane: tenants.queues cannot be imported: {_hides(theirs, name)}\n")
        return None


def install() -> None:
    """Add the finders; called once by each Python of the environment."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
        sys.meta_path.insert(0, CommandFinder)


def exit_if_hidden(status: int) -> None:
    """End the process if one of our packages is hidden, with a sentence for each."""
    install()
    sentences = hidden()
    for sentence in sentences:
        sys.stderr.write(f"onelane: {sentence}\n")
    if sentences:
        sys.exit(status)


def _hides(theirs: str, name: str) -> str:
    return f"{theirs} hides onelane's package {_HOME}/{name}. {_ways_out(theirs)}"


def _ways_out(theirs: str) -> str:
    last = os.path.basename(theirs)
    return _WAYS_OUT.format(name=os.path.basename(os.path.dirname(theirs)) if last == "__init__.py" else last[:-3])


def _is_ours(file: str, name: str) -> bool:
    return os.path.realpath(file).startswith(os.path.realpath(os.path.join(_HOME, name)) + os.sep)


def _file_of(spec: ModuleSpec | None) -> str | None:
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def _in_folder(folder: str, name: str) -> str | None:
    for file in (os.path.join(folder, name, "__init__.py"), os.path.join(folder, f"{name}.py")):
        if os.path.isfile(file):
            return file
    package = os.path.join(folder, name)  # a package without __init__.py, if it has modules
    if os.path.isdir(package) and any(each.endswith(".py") for each in os.listdir(package)):
        return os.path.join(package, "__init__.py")
    return None


def _has(package: str, rest: str) -> bool:
    """Whether the package whose `__init__.py` is named has the module `rest`."""
    path = os.path.join(os.path.dirname(package), *rest.split("."))
    return os.path.isfile(f"{path}.py") or os.path.isdir(path)
