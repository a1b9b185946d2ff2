"""The clients of steps: the text model, the browser and HTTP."""

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
    """Makes clients for one step. Keys come through the port, and are never in the environment."""

    def __init__(self, port: Port, remaining_seconds: Callable[[], float]) -> None:
        self._port = port
        self._remaining_seconds = remaining_seconds

    def text_model(self) -> TextModel:
        """The text model that this installation uses: Gemini, or the offline model behind the same protocol.

        Raises:
            ProviderBusy: the credential's quota is used up for now.
            ExtraMissing: google-genai is not installed.
        """
        require("gemini", "the text model")
        from .gemini import TextModel

        settings = self._port.call("client.settings", {"name": "text_model"})
        return TextModel(settings, remaining_seconds=self._remaining_seconds, report_usage=self._report_usage)

    def browser(self) -> AbstractContextManager[Browser]:
        """A browser for this step; it ends with the `with` block.

        Raises:
            ExtraMissing: Playwright is not installed.
        """
        require("browser", "the browser")
        from .browser import open_browser

        settings = self._port.call("client.settings", {"name": "browser"})
        return open_browser(settings, remaining_seconds=self._remaining_seconds)

    def http(self) -> Http:
        """HTTP requests with the browser's address checks, bounded in time and size."""
        from .http import Http

        settings = self._port.call("client.settings", {"name": "http"})
        return Http(settings["allowed_hosts"], self._remaining_seconds)

    def _report_usage(self, tokens_in: int, tokens_out: int) -> None:
        self._port.call("usage.add", {"tokens_in": tokens_in, "tokens_out": tokens_out})
