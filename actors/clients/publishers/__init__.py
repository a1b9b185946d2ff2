"""Publishers: one protocol (`base`), one implementation a module, one contract suite over all of them.

`open_publisher` is the only place that knows their names. A module is imported when it is needed, so that asking for
the names loads no browser.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, cast

from ...errors import StepError

if TYPE_CHECKING:
    from ...context import Target
    from ..browser import Browser
    from .base import Publisher

#: Each publisher's name, as it stands in an account's target, and its class.
_CLASSES = {"demo": "demo.DemoPublisher", "wordpress": "wordpress.WordPressPublisher"}

PUBLISHER_NAMES = tuple(_CLASSES)


class UnknownPublisher(StepError):
    """A target names a publisher that this installation does not have."""

    code: ClassVar[str] = "publish_failed"
    permanent: ClassVar[bool] = True


def open_publisher(target: Target, browser: Browser) -> Publisher:
    """The publisher for an account's target, working in `browser`. It opens nothing before `ensure_session`.

    Raises:
        UnknownPublisher: no publisher has that name; the message lists those there are.
        PublishFailed: the target's options are wrong; the message names the option.
    """
    path = _CLASSES.get(target.publisher)
    if path is None:
        raise UnknownPublisher(f"there is no publisher {target.publisher!r}; known are {', '.join(PUBLISHER_NAMES)}")
    module, _, name = path.partition(".")
    made = getattr(import_module(f".{module}", __name__), name)(target, browser)
    return cast("Publisher", made)
