"""Publishes at WordPress through its block editor, in the account's own signed-in browser.

A post is made only once: it is first saved as a draft whose slug is the marker, and then published, which changes the
state of that post. A second attempt finds the post by its slug, published or still a draft, and continues with it. So
even a request that takes effect late publishes nothing twice. `find` uses WordPress's REST API with the browser's
session, which lists all posts of the user in any state, so "not found" is reliable.

The editor is controlled by its documented JavaScript API (`wp.data`, `wp.blocks`) where its markup changes between
releases, and by its buttons elsewhere. Tested with WordPress 6.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from ...errors import LoginRequired, ProviderError, PublishFailed, PublishRefused
from ...markdown import comparable, plain_text, render
from ...options import list_option, text_option
from ...port import Credentials, Draft, SessionState, Target
from ..browser import Browser, page_errors
from ..safe_url import origin
from . import wordpress_scripts as scripts
from .base import Post, PublicPost, PublisherClients
from .pages import Pages, fill_in

# WordPress adds "-2" to a slug that is taken when the post is published.
_SLUG_SUFFIXES = ("", "-2", "-3")
_PUBLISHED = ("publish", "future", "private")
_MARKER = re.compile(r"[a-z0-9][a-z0-9-]{0,180}")
_NONCE = re.compile(r"[0-9a-f]{8,16}")
_TITLES = (".wp-block-post-title", ".entry-title", ".post-title", "article h1", "main h1", "h1")
_TEXTS = (".wp-block-post-content", ".entry-content", ".post-content", "article", "main")
_EDITOR_SECONDS = 60.0
_GUIDE_SECONDS = 2.0


class WordPressPublisher:
    """See `base.Publisher`.

    Options of the target: `categories` and `tags` (names; `tags` are added to the draft's), `admin_path` and
    `login_path` if the site has moved them, `title_selector` and `content_selector` for themes without the usual
    classes.
    """

    name: ClassVar[str] = "wordpress"
    find_is_reliable = True

    def __init__(self, target: Target, clients: PublisherClients, *, submit_seconds: float = 45.0) -> None:
        #: A request is answered within this time; a later one would still only publish the same post.
        self.settle_seconds = 10.0
        self._base = target.base_url.rstrip("/")
        self._admin = self._base + "/" + text_option(target.options, "admin_path", "wp-admin").strip("/")
        self._login = self._base + "/" + text_option(target.options, "login_path", "wp-login.php").lstrip("/")
        self._categories = list_option(target.options, "categories")
        self._tags = list_option(target.options, "tags")
        self._title_selector = text_option(target.options, "title_selector")
        self._text_selector = text_option(target.options, "content_selector")
        self._clients = clients
        self._pages = Pages(clients, self._base)
        self._submit_seconds = submit_seconds
        self._nonce = ""

    @property
    def _browser(self) -> Browser:
        return self._clients.browser

    def ensure_session(self, session: SessionState) -> SessionState | None:
        page = self._pages.open_author(session.storage_state)
        with page_errors("checking the session at WordPress"):
            if self._signed_in(page) and self._is_user(session.credentials):
                return None
            self._check_address(page)
            if session.credentials is None:
                raise LoginRequired(f"the session at {self._base} is over, and there are no credentials to renew it")
            self._sign_in(session.credentials)
        return self._pages.state(session)

    def find(self, marker: str) -> Post | None:
        with page_errors("looking for the post at WordPress"):
            return _published(self._posts(marker))

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        page = self._pages.author
        with page_errors("writing the post at WordPress"):
            known = self._posts(marker)
            if (done := _published(known)) is not None:
                return done
            terms = {
                "categories": [self._term("categories", name) for name in _names(self._categories)],
                "tags": [self._term("tags", name) for name in _names([*draft.tags, *self._tags])],
            }
            self._open_editor(page, known[0]["id"] if known else None)
            content = self._write(page, draft, marker, terms)
            button = self._publish_button(page)
            page.evaluate(scripts.KEEP_CONTENT, content)
        before_submit()
        with page_errors("publishing at WordPress"):
            page.locator(button).first.click(timeout=self._browser.timeout_ms())
            outcome = page.wait_for_function(
                scripts.PUBLISH_OUTCOME, timeout=self._browser.timeout_ms(self._submit_seconds)
            ).json_value()
        if outcome["error"]:
            raise ProviderError(f"WordPress refuses to publish: {outcome['error']}")
        return Post(outcome["url"], str(outcome["id"]))

    def read_back(self, url: str) -> PublicPost:
        page = self._pages.open_public(url)
        with page_errors(f"reading {url}"):
            if page.url.startswith(self._login):
                raise ProviderError(f"{url} is shown only to people who are signed in")
            title = _first(page, [self._title_selector] if self._title_selector else _TITLES)
            text = _first(page, [self._text_selector] if self._text_selector else _TEXTS)
        if title is None or text is None:
            raise ProviderError(f"{url} shows no title and text; name the theme's in the target's options")
        return PublicPost(plain_text(title), plain_text(text))

    # The session

    def _signed_in(self, page: Page) -> bool:
        """Whether this browser is signed in; keeps the nonce for the session's REST calls."""
        response = self._browser.goto(page, f"{self._admin}/admin-ajax.php?action=rest-nonce")
        check_origin(self._base, page.url)
        answer = response.text().strip()
        if response.status == 200 and _NONCE.fullmatch(answer):
            self._nonce = answer
            return True
        # Without a session WordPress answers 400 and "0"; some sites redirect to their sign-in page.
        if answer == "0" or page.url.startswith(self._login):
            return False
        raise ProviderError(f"{self._admin} answers {response.status} and does not look like WordPress")

    def _check_address(self, page: Page) -> None:
        """Compare base_url with WordPress's configured address, before the sign-in.

        A session is valid for one host. Under another name of the site (www, the bare domain, localhost) WordPress's
        sign-in form, cookies and links lead to the configured one.
        """
        response = self._browser.goto(page, f"{self._base}/?rest_route=/")
        try:
            site = json.loads(response.text())
        except ValueError:
            return  # its REST API is not public; the sign-in form is checked later
        address = site.get("url") if isinstance(site, dict) else None
        if isinstance(address, str) and address:
            check_origin(self._base, address, claimed=True)

    def _is_user(self, credentials: Credentials | None) -> bool:
        """Whether the session belongs to the credentials' user; another user's session must not be used."""
        if credentials is None:
            return True
        status, user = self._rest("GET", "/wp/v2/users/me", {"context": "edit", "_fields": "username,email"})
        names = {str(user.get(name, "")).casefold() for name in ("username", "email")} if status == 200 else set()
        return credentials.username.casefold() in names

    def _sign_in(self, credentials: Credentials) -> None:
        page = self._pages.open_author(None)
        self._browser.goto(page, self._login)
        if not page.locator("#user_login").count():
            raise ProviderError(f"{self._login} shows no sign-in form")
        check_origin(self._base, page.locator("#loginform").evaluate("form => form.action"), claimed=True)
        fill_in((page.locator("#user_login"), credentials.username), (page.locator("#user_pass"), credentials.password))
        if page.locator("#rememberme").count():
            page.locator("#rememberme").check()
        with page.expect_navigation(wait_until="domcontentloaded", timeout=self._browser.timeout_ms()):
            page.locator("#wp-submit").click()
        alert = page.locator("#login_error")
        reason = plain_text(alert.inner_html()) if alert.count() else f"it asks for more at {page.url}"
        if not self._signed_in(page):
            raise LoginRequired(f"{self._base} refuses to sign {credentials.username!r} in: {reason}")

    # Posts and terms, by the REST API

    def _posts(self, marker: str) -> list[dict[str, Any]]:
        """The user's posts with the marker's slug, in any state: `{id, link, slug, status}`, oldest first."""
        if not _MARKER.fullmatch(marker):
            raise ValueError(f"marker {marker!r} cannot be a slug")
        query = {
            "slug": ",".join(marker + suffix for suffix in _SLUG_SUFFIXES),
            "status": "any",
            "context": "edit",
            "orderby": "id",
            "order": "asc",
            "per_page": "20",
            "_fields": "id,link,slug,status",
        }
        status, answer = self._rest("GET", "/wp/v2/posts", query)
        if _is_signed_out(status, answer):
            raise LoginRequired(f"the session at {self._base} ended: {_message(answer)}")
        if status in (401, 403) or (status == 400 and "status" in str(answer)):
            # A user who may not edit posts may not list unpublished ones.
            raise PublishRefused(f"the user at {self._base} may not write posts: {_message(answer)}")
        if status != 200 or not isinstance(answer, list):
            raise ProviderError(f"WordPress answers {status} when asked for its posts: {_message(answer)}")
        return answer

    def _term(self, taxonomy: str, name: str) -> int:
        """The id of a tag or category, which is created if missing."""
        status, found = self._rest(
            "GET", f"/wp/v2/{taxonomy}", {"search": name, "per_page": "100", "_fields": "id,name,slug"}
        )
        if status != 200:
            raise ProviderError(f"WordPress answers {status} when asked for its {taxonomy}: {_message(found)}")
        for term in found:
            if name.casefold() in (unescape(term["name"]).casefold(), term["slug"]):
                return int(term["id"])
        status, made = self._rest("POST", f"/wp/v2/{taxonomy}", {}, {"name": name})
        if status == 201:
            return int(made["id"])
        if isinstance(made, dict) and made.get("code") == "term_exists":
            return int(made["data"]["term_id"])
        error = PublishRefused if status in (400, 403) and not _is_signed_out(status, made) else PublishFailed
        raise error(f"the site has no {name!r} among its {taxonomy}, and it cannot be made: {_message(made)}")

    def _rest(
        self, method: str, route: str, query: dict[str, str], body: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        # rest_route works with any permalink setting of the site; /wp-json/ does not.
        url = f"{self._base}/?{urlencode({'rest_route': route, **query})}"
        asked = {"method": method, "url": url, "nonce": self._nonce, "milliseconds": self._browser.timeout_ms()}
        answer = self._pages.author.evaluate(scripts.REST, {**asked, "body": body})
        try:
            return answer["status"], json.loads(answer["text"])
        except ValueError:
            raise ProviderError(f"WordPress answers {answer['status']} and no JSON: {answer['text'][:200]!r}") from None

    # The editor

    def _open_editor(self, page: Page, post_id: int | None) -> None:
        path = "post-new.php" if post_id is None else f"post.php?post={post_id}&action=edit"
        self._browser.goto(page, f"{self._admin}/{path}", at_most_seconds=_EDITOR_SECONDS)
        if page.url.startswith(self._login):
            raise LoginRequired(f"the session at {self._base} ended before the editor was open")
        try:
            timeout = self._browser.timeout_ms(_EDITOR_SECONDS)
            editor = page.wait_for_function(scripts.EDITOR_IS_READY, timeout=timeout).json_value()
        except PlaywrightTimeout as error:
            raise PublishFailed(f"{page.url} shows no editor within {_EDITOR_SECONDS:.0f} s") from error
        if editor == "classic":
            raise PublishRefused(f"{page.url} shows a classic editor; only the block editor is supported")
        if not page.evaluate(scripts.MAY_PUBLISH):
            raise PublishRefused(f"the user at {self._base} may write posts but not publish them")
        self._close_welcome_guide(page)

    def _close_welcome_guide(self, page: Page) -> None:
        """Close the dialog that covers a new user's editor."""
        if not page.evaluate(scripts.GUIDE_IS_DUE):
            return
        try:
            close = page.locator(".edit-post-welcome-guide .components-modal__header button").first
            close.click(timeout=self._browser.timeout_ms(_GUIDE_SECONDS))
        except PlaywrightError:  # another release's markup: use the editor's API
            page.evaluate(scripts.DISMISS_GUIDE)

    def _write(self, page: Page, draft: Draft, marker: str, terms: dict[str, list[int]]) -> str:
        """Fill the editor and save the post as a draft with its slug; returns the content that the site has saved."""
        html = render(draft.body)
        content = {"title": draft.title, "html": html, "slug": marker, **terms}
        saved = page.evaluate(scripts.SAVE_DRAFT, {**content, "milliseconds": self._browser.timeout_ms()})
        if saved["error"]:
            if _is_signed_out(*self._rest("GET", "/wp/v2/users/me", {"_fields": "id"})):
                raise LoginRequired(f"the session at {self._base} ended while the post was written")
            raise PublishFailed(f"WordPress did not keep the draft: {saved['error']}")
        if comparable(plain_text(html)) not in comparable(plain_text(saved["content"])):
            raise PublishFailed("WordPress's editor did not accept the draft's text")
        if saved["slug"] != marker:
            raise PublishFailed(f"WordPress gave the post the slug {saved['slug']!r}, so it could not be found again")
        return str(saved["content"])

    def _publish_button(self, page: Page) -> str:
        """Open the publish panel if the editor has one; returns the selector of the button that publishes."""
        toggle = page.locator(".editor-post-publish-panel__toggle")
        if toggle.count():
            toggle.first.click(timeout=self._browser.timeout_ms())
            button = ".editor-post-publish-panel .editor-post-publish-button"
        else:
            button = ".editor-post-publish-button"
        ready = f'{button}:not([aria-disabled="true"])'
        page.wait_for_selector(ready, timeout=self._browser.timeout_ms())
        return ready


def check_origin(base: str, url: str, *, claimed: bool = False) -> None:
    """Refuse a site at another address than `base`: browsers do not send the session's cookies there.

    With `claimed` (the address is the site's own claim) the scheme may differ: behind a proxy that ends TLS many sites
    assume plain http.

    Raises:
        PublishRefused: it is at another address; the message has the right one.
    """
    own, expected = origin(url), origin(base)
    same = _without_scheme(own) == _without_scheme(expected) if claimed else own == expected
    if not same:
        right = _with_origin(base, url)
        raise PublishRefused(
            f"the target's base_url is {base}, and the site's own address is {right}: set base_url to that"
        )


def _is_signed_out(status: int, answer: Any) -> bool:
    """Whether WordPress refuses because the session is over, and not for a missing permission."""
    code = answer.get("code") if isinstance(answer, dict) else None
    return status in (401, 403) and code in ("rest_not_logged_in", "rest_cookie_invalid_nonce")


def _without_scheme(origin: tuple[str, str | None, int | None]) -> tuple[str | None, int | None]:
    """Host and port; the usual ports of both schemes count as one."""
    _, host, port = origin
    return host, None if port in (80, 443) else port


def _with_origin(base: str, url: str) -> str:
    """The base URL at the scheme, host and port of another URL."""
    parts = urlsplit(url)
    return urlsplit(base)._replace(scheme=parts.scheme, netloc=parts.netloc).geturl()


def _published(posts: list[dict[str, Any]]) -> Post | None:
    for post in posts:
        if post["status"] in _PUBLISHED:
            return Post(post["link"], str(post["id"]))
    return None


def _names(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def _first(page: Page, selectors: tuple[str, ...] | list[str]) -> str | None:
    for selector in selectors:
        found = page.locator(selector)
        if found.count():
            return found.first.inner_html()
    return None


def _message(answer: Any) -> str:
    return str(answer.get("message", answer))[:300] if isinstance(answer, dict) else str(answer)[:300]
