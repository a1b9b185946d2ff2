"""Publishes at the demo blog (`orchestrator/demo_blog`) through its own pages.

The post's slug is the marker. The blog lists posts by the requested slug, so `find` also finds a duplicate, whose slug
got a ``-2``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import ClassVar
from urllib.parse import quote, urlencode

from playwright.sync_api import Page, Response

from ...errors import LoginRequired, ProviderError, PublishFailed
from ...markdown import comparable, plain_text, render
from ...port import Credentials, Draft, SessionState, Target
from ..browser import Browser, page_errors
from .base import Post, PublicPost, PublisherClients
from .pages import Pages, fill_in, paste_html

_EDITOR = "form[data-page=editor]"
_SIGN_IN = "form[data-page=sign-in]"


class DemoPublisher:
    """See `base.Publisher`. Options of the target: none."""

    name: ClassVar[str] = "demo"
    find_is_reliable = True

    def __init__(self, target: Target, clients: PublisherClients, *, submit_seconds: float = 30.0) -> None:
        self.settle_seconds = 5.0
        self._base = target.base_url.rstrip("/")
        self._clients = clients
        self._pages = Pages(clients, self._base)
        self._submit_seconds = submit_seconds
        self._user = ""

    @property
    def _browser(self) -> Browser:
        return self._clients.browser

    def ensure_session(self, session: SessionState) -> SessionState | None:
        page = self._pages.open_author(session.storage_state)
        with page_errors("checking the session at the demo blog"):
            self._open_editor(page)
            if self._signed_in(page, session.credentials):
                return None
            if session.credentials is None:
                raise LoginRequired(f"the session at {self._base} is over, and there are no credentials to renew it")
            self._sign_in(session.credentials)
        return self._pages.state(session)

    def find(self, marker: str) -> Post | None:
        query = urlencode({"user": self._user, "marker": marker})
        with page_errors("looking for the post at the demo blog"):
            response = self._browser.goto(self._pages.author, f"{self._base}/-/posts?{query}")
            if response.status != 200:
                raise ProviderError(f"the demo blog answers {response.status} when asked for its posts")
            posts = json.loads(response.text())["posts"]
        # The oldest is the original; later ones would be duplicates.
        return Post(posts[-1]["url"], str(posts[-1]["id"])) if posts else None

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        page = self._pages.author
        with page_errors("writing the post at the demo blog"):
            self._open_editor(page)
            if not page.locator(_EDITOR).count():
                raise LoginRequired(f"the session at {self._base} ended before the editor was open")
            self._fill(page, draft, marker)
        before_submit()
        with page_errors("publishing at the demo blog"):
            with page.expect_navigation(timeout=self._browser.timeout_ms(self._submit_seconds)) as navigation:
                page.locator("#publish").click()
            return self._published(page, navigation.value)

    def read_back(self, url: str) -> PublicPost:
        page = self._pages.open_public(url)
        with page_errors(f"reading {url}"):
            title, body = page.locator("h1.post-title"), page.locator(".post-body")
            if title.count() != 1 or body.count() != 1:
                raise ProviderError(f"{url} is not a post of the demo blog")
            return PublicPost(title.inner_text(), plain_text(body.inner_html()))

    def _open_editor(self, page: Page) -> None:
        response = self._browser.goto(page, f"{self._base}/-/editor")
        if response.status != 200 or not page.locator(f"{_EDITOR}, {_SIGN_IN}").count():
            raise ProviderError(f"{self._base}/-/editor answers {response.status} and is no demo blog's editor")

    def _signed_in(self, page: Page, credentials: Credentials | None) -> bool:
        """Whether the editor is open for the account's own user, who must be that of the credentials."""
        editor = page.locator(_EDITOR)
        if not editor.count():
            return False
        self._user = editor.get_attribute("data-user") or ""
        return credentials is None or credentials.username == self._user

    def _sign_in(self, credentials: Credentials) -> None:
        page = self._pages.open_author(None)
        self._open_editor(page)
        form = page.locator(_SIGN_IN)
        fill_in(
            (form.locator("[name=username]"), credentials.username),
            (form.locator("[name=password]"), credentials.password),
        )
        with page.expect_navigation(timeout=self._browser.timeout_ms()):
            form.get_by_role("button").click()
        if not self._signed_in(page, credentials):
            alert = page.locator("[role=alert]")
            reason = alert.inner_text() if alert.count() else f"the page is {page.title()!r}"
            raise LoginRequired(f"{self._base} refuses to sign {credentials.username!r} in: {reason}")

    def _fill(self, page: Page, draft: Draft, marker: str) -> None:
        """Fill the editor and wait until it has processed the text: an earlier click would send an empty body."""
        form, html = page.locator(_EDITOR), render(draft.body)
        fill_in(
            (form.locator("[name=title]"), draft.title),
            (form.locator("[name=slug]"), marker),
            (form.locator("[name=tags]"), ", ".join(tag.replace(",", " ") for tag in draft.tags)),
        )
        paste_html(form.locator("[data-rich]"), html)
        page.wait_for_selector(f"{_EDITOR}[data-state=synced]", timeout=self._browser.timeout_ms())
        taken = form.locator("[name=body]").input_value()
        if comparable(plain_text(taken)) != comparable(plain_text(html)):
            raise PublishFailed("the demo blog's editor did not accept the draft's text")

    def _published(self, page: Page, response: Response) -> Post:
        if response.status >= 400:
            raise ProviderError(f"the demo blog answers {response.status} to the post")
        if page.locator(_SIGN_IN).count():
            raise LoginRequired(f"the session at {self._base} ended as the post was sent")
        post_id = page.locator("article[data-post-id]").get_attribute("data-post-id")
        if not post_id or not page.url.startswith(f"{self._base}/{quote(self._user)}/"):
            raise ProviderError(f"the demo blog shows {page.url} and not the post")
        return Post(page.url, post_id)
