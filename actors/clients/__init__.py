"""The clients that steps speak through, made from settings that the worker hands over the pipe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..extras import require

if TYPE_CHECKING:
    from ..port import Port
    from .browser import Browser
    from .gemini import TextModel
    from .http import Http


class Clients:
    """Makes clients for one step. Keys come by the pipe at first use and never stand in the environment."""

    def __init__(self, port: Port, remaining_seconds: Callable[[], float]) -> None:
        self._port = port
        self._remaining_seconds = remaining_seconds

    def text_model(self) -> TextModel:
        """The text model that this installation uses: Gemini, or the offline model behind the same protocol.

        Raises:
            ProviderBusy: the credential's quota is used up, and its rest is not over.
            ExtraMissing: google-genai is not installed.
        """
        require("gemini", "the text model")
        from .gemini import TextModel

        settings = self._port.call("client.settings", {"name": "text_model"})
        return TextModel(settings, remaining_seconds=self._remaining_seconds, report_usage=self._report_usage)

    def browser(self) -> AbstractContextManager[Browser]:
        """A browser of this step's own; it ends with the `with` block, and with the step in any case.

        Raises:
            ExtraMissing: Playwright is not installed.
        """
        require("browser", "the browser")
        from .browser import open_browser

        settings = self._port.call("client.settings", {"name": "browser"})
        return open_browser(settings, remaining_seconds=self._remaining_seconds)

    def http(self) -> Http:
        """HTTP requests under the same guard as the browser's, with a bound on the time and the size of each."""
        from .http import Http

        settings = self._port.call("client.settings", {"name": "http"})
        return Http(settings["allowed_hosts"], self._remaining_seconds)

    def _report_usage(self, tokens_in: int, tokens_out: int) -> None:
        self._port.call("usage.add", {"tokens_in": tokens_in, "tokens_out": tokens_out})
