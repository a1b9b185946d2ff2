"""Publishers: one protocol (`base`), one implementation per module, one contract suite over all of them.

Publishers are built in, or come from installed packages (entry-point group ``onelane.publishers``, each entry
``name = "module:Class"``) or from ``ONELANE_PUBLISHERS`` (``module:Class``). A step's process needs no settings: the
worker sends it the class of the account's publisher.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ...errors import PublishFailed, StepError
from ...extras import require_for_module

if TYPE_CHECKING:
    from ...port import Target
    from .base import Publisher, PublisherClients

ENTRY_POINT_GROUP = "onelane.publishers"
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,47}")

#: By name, so that listing the publishers imports no browser.
BUILT_IN = MappingProxyType(
    {
        "demo": f"{__name__}.demo:DemoPublisher",
        "wordpress": f"{__name__}.wordpress:WordPressPublisher",
    }
)

_METHODS = ("ensure_session", "find", "publish", "read_back")
_ATTRIBUTES = ("settle_seconds", "find_is_reliable")


class PublisherError(Exception):
    """A publisher's class is invalid or cannot be loaded; the message says which and why."""


class UnknownPublisher(StepError):
    """A target names a publisher that this installation does not have."""

    code: ClassVar[str] = "publish_failed"
    permanent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class KnownPublisher:
    """A publisher of this installation: its class as ``module:Class``, and where it was declared."""

    name: str
    reference: str
    origin: str

    @property
    def module(self) -> str:
        """The class's module; workers load it before they fork the steps' processes."""
        return self.reference.partition(":")[0]


def load_publishers(references: Iterable[str] = ()) -> Mapping[str, KnownPublisher]:
    """All publishers by name, read-only: built-in ones, those of installed packages, and `references`.

    Publishers that are not built in are imported and checked, so that a fault is reported at start.

    Raises:
        PublisherError: a class cannot be imported or is no publisher, or two publishers share a name.
    """
    found = {name: KnownPublisher(name, reference, "built in") for name, reference in BUILT_IN.items()}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        origin = f"entry point {point.name!r}"
        name = _checked_name(point.value, origin)
        if name != point.name:
            raise PublisherError(f"{origin}: its class {point.value} has the name {name!r}; both must be the same")
        _add(found, KnownPublisher(name, point.value, origin))
    for reference in references:
        _add(found, KnownPublisher(_checked_name(reference, "ONELANE_PUBLISHERS"), reference, "ONELANE_PUBLISHERS"))
    return MappingProxyType(found)


def _add(found: dict[str, KnownPublisher], new: KnownPublisher) -> None:
    known = found.setdefault(new.name, new)
    if known.reference != new.reference:
        raise PublisherError(
            f"two publishers are named {new.name!r}: {known.reference} ({known.origin}) and "
            f"{new.reference} ({new.origin})"
        )


def _checked_name(reference: str, origin: str) -> str:
    """The name of a publisher class, after a check that it is one."""
    try:
        made = class_of(reference)
    except Exception as error:
        raise PublisherError(f"{origin}: {reference!r} cannot be loaded: {type(error).__name__}: {error}") from error
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise PublisherError(f"{origin}: {reference}: its name is {name!r}; it must match {NAME_PATTERN.pattern}")
    missing = [each for each in _METHODS if not callable(getattr(made, each, None))]
    if missing:
        raise PublisherError(f"{origin}: {reference} is no publisher: it lacks {', '.join(missing)}")
    return name


def class_of(reference: str) -> type[Publisher]:
    """The class that ``module:Class`` names.

    Raises:
        ValueError: the reference is malformed, or does not name a class.
        ImportError, AttributeError: there is no such module or class. Other errors of the module are not caught.
    """
    module, colon, name = reference.partition(":")
    if not module or not colon or not name:
        raise ValueError(f"{reference!r} must be written module:Class")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, type):
        raise ValueError(f"{reference!r} is {found!r} and no class")
    return cast("type[Publisher]", found)


def open_publisher(target: Target, clients: PublisherClients) -> Publisher:
    """The publisher for an account's target. It opens nothing before `ensure_session`.

    Raises:
        UnknownPublisher: no publisher has that name.
        ExtraMissing: the publisher is built in, and Playwright is not installed.
        PublishFailed: an option of the target is wrong (the message names it), or the class is no publisher.
    """
    reference = target.implementation or BUILT_IN.get(target.publisher)
    if reference is None:
        raise UnknownPublisher(
            f"there is no publisher {target.publisher!r} on this worker; built in are {', '.join(BUILT_IN)}, and "
            "ONELANE_PUBLISHERS or an installed package can name more"
        )
    require_for_module(reference.partition(":")[0], f"publisher {target.publisher!r}")
    made = class_of(reference)(target, clients)
    missing = [each for each in _ATTRIBUTES if not hasattr(made, each)]
    if missing:
        raise PublishFailed(f"publisher {target.publisher!r} ({reference}) lacks {', '.join(missing)}")
    return made
