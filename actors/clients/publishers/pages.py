"""Shared by publishers that use web pages: a signed-in context, a reader's context, and forms.

The author's context has the account's cookies. The reader's context has none and runs no scripts: it sees exactly what
the site sends to the public.
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

#: A script that moves the focus does so once per load of its page.
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
        """The signed-in page; call `ensure_session` first."""
        if self._author is None:
            raise LoginRequired(f"there is no signed-in session at {self._site} yet")
        return self._author

    def open_author(self, storage_state: Mapping[str, Any] | None) -> Page:
        """Replace the author's context. An unreadable storage state is ignored."""
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
        """The author's current session state."""
        with page_errors("reading the session's state"):
            return SessionState(dict(self.author.context.storage_state()), session.credentials)

    def open_public(self, url: str) -> Page:
        """A page in the reader's context.

        Raises:
            ProviderError: its status is not 200; the message has it.
        """
        with page_errors(f"opening {url}"):
            if self._reader is None:
                self._reader = self._clients.browser.context(javascript=False).new_page()
            response = self._clients.browser.goto(self._reader, url)
        if response.status != 200:
            raise ProviderError(f"{url} answers {response.status} to a reader")
        return self._reader


def fill_in(*fields: tuple[Locator, str]) -> None:
    """Fill the fields of a form, and check that each has its text.

    The browser types into the focused field, and a page's script may move the focus: WordPress' sign-in page does so
    200 ms after it was loaded. A password could then be typed into the user name's field.

    Raises:
        ProviderError: the page has changed the fields each time.
    """
    for _ in range(_FILLS):
        for field, text in fields:
            field.fill(text)
        if all(field.input_value() == text for field, text in fields):
            return
    raise ProviderError("the page's form does not keep what is written into it")


def paste_html(field: Locator, html: str) -> None:
    """Paste HTML into a rich-text field, as if it was copied from another page."""
    field.click()
    field.evaluate(
        """(element, html) => {
            const data = new DataTransfer();
            data.setData("text/html", html);
            element.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true}));
        }""",
        html,
    )
