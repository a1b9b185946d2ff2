"""What publishers that work through web pages share: a signed-in context, a reader's context, and forms.

The author's context carries the account's cookies. The reader's has none and runs no scripts: it sees what the site
sends to a stranger, and nothing that a script of the page made up afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Locator, Page

from ...errors import LoginRequired, ProviderError
from ...port import SessionState
from ..browser import page_errors
from .base import PublisherClients

#: A script that moves the focus does so once for each time that its page is loaded.
_FILLS = 3


class Pages:
    """The pages of one publisher at one site."""

    def __init__(self, clients: PublisherClients, site: str) -> None:
        self._clients = clients
        self._site = site
        self._author: Page | None = None
        self._reader: Page | None = None

    @property
    def author(self) -> Page:
        """The signed-in page; `ensure_session` must have been called."""
        if self._author is None:
            raise LoginRequired(f"nobody is signed in at {self._site} yet")
        return self._author

    def open_author(self, storage_state: Mapping[str, Any] | None) -> Page:
        """A new context for the author in place of the last one; a state that cannot be read counts as none."""
        if self._author is not None:
            with page_errors("closing the last session's pages"):
                self._author.context.close()
        with page_errors("opening a page"):
            try:
                context = self._clients.browser.context(storage_state)
            except PlaywrightError:
                if storage_state is None:
                    raise
                context = self._clients.browser.context()
            self._author = context.new_page()
        return self._author

    def state(self, session: SessionState) -> SessionState:
        """The author's storage state as it is now, to be kept for the next time."""
        with page_errors("reading the session's state"):
            return SessionState(dict(self.author.context.storage_state()), session.credentials)

    def open_public(self, url: str) -> Page:
        """A public page as a stranger gets it.

        Raises:
            ProviderError: it cannot be read (now); the message has the status.
        """
        with page_errors(f"opening {url}"):
            if self._reader is None:
                self._reader = self._clients.browser.context(javascript=False).new_page()
            response = self._clients.browser.goto(self._reader, url)
        if response.status != 200:
            raise ProviderError(f"{url} answers {response.status} to a reader")
        return self._reader


def fill_in(*fields: tuple[Locator, str]) -> None:
    """Fill the fields of a form, and see that each keeps its text.

    The browser types into what has the focus, and a page's script may move that: WordPress' sign-in page does so 200 ms
    after it came. What was meant for one field then stands in another, a password in that of the user name.

    Raises:
        ProviderError: the page changes what is written each time.
    """
    for _ in range(_FILLS):
        for field, text in fields:
            field.fill(text)
        if all(field.input_value() == text for field, text in fields):
            return
    raise ProviderError("the page's form does not keep what is written into it")


def paste_html(field: Locator, html: str) -> None:
    """Paste HTML into a rich-text field, as a person does who copied it from another page."""
    field.click()
    field.evaluate(
        """(element, html) => {
            const data = new DataTransfer();
            data.setData("text/html", html);
            element.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
        }""",
        html,
    )
