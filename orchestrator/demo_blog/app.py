"""The demo blog's HTTP service.

Paths that begin with ``/-/`` are the site's own; all others are blogs and posts, so user names cannot collide with
them. The two control calls serve clients on loopback only and need a header that no web page can send to another
origin; one of them exists only in tests.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from actors.markdown import clean_html

from . import pages
from .faults import Faults
from .store import MAX_PASSWORD, SESSION_SECONDS, BlogStore, Session, StoredPost, slug_of

#: Most bytes of a request's body: the longest draft, at nine bytes per form-encoded character.
MAX_BODY = 8 * 1024 * 1024
MAX_TITLE, MAX_TAGS, MAX_TAG = 500, 50, 60
#: How long the editor takes to update the form after a paste, like real ones.
EDITOR_SYNC_MS = 120
CONTROL_HEADER = "x-demo-blog-control"

_SESSION_COOKIE, _FORM_COOKIE = "demo_blog_session", "demo_blog_form"
_LOOPBACK = ("127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: http: "
    "https:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(data_dir: Path, *, faults: Faults | None = None, session_seconds: float = SESSION_SECONDS) -> Starlette:
    """The site over `data_dir`; the store is `app.state.store`.

    With `faults` it injects them, and serves ``/-/faults`` to set them.
    """
    site = _Site(BlogStore(data_dir), faults, session_seconds)
    routes = [
        Route("/", site.index),
        Route("/-/healthz", site.healthz),
        Route("/-/sign-in", site.sign_in_form, methods=["GET"]),
        Route("/-/sign-in", site.sign_in, methods=["POST"]),
        Route("/-/sign-out", site.sign_out, methods=["POST"]),
        Route("/-/editor", site.editor, methods=["GET"]),
        Route("/-/posts", site.list_posts, methods=["GET"]),
        Route("/-/posts", site.add_post, methods=["POST"]),
        Route("/-/users", site.create_user, methods=["POST"]),
        *([Route("/-/faults", site.set_faults, methods=["POST", "DELETE"])] if faults is not None else []),
        Mount("/-/static", StaticFiles(directory=Path(__file__).parent / "static")),
        Route("/{user}/", site.blog),
        Route("/{user}/{slug}", site.post),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _problem, 500: _crashed})
    app.state.store = site.store
    app.state.faults = faults
    return app


class _Site:
    """The handlers, with the store and the faults that they share."""

    def __init__(self, store: BlogStore, faults: Faults | None, session_seconds: float) -> None:
        self.store = store
        self._faults = faults
        self._session_seconds = session_seconds

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "service": "demo blog"})

    async def index(self, request: Request) -> Response:
        blogs = await run_in_threadpool(self.store.blogs)
        latest = await run_in_threadpool(self.store.posts, limit=20)
        return _html(pages.index(blogs, latest, await self._session(request)))

    async def blog(self, request: Request) -> Response:
        found = await run_in_threadpool(self.store.blog, request.path_params["user"])
        if found is None:
            raise HTTPException(404, "There is no such blog.")
        posts = await run_in_threadpool(self.store.posts, found.username, limit=200)
        return _html(pages.blog(found, posts, await self._session(request)))

    async def post(self, request: Request) -> Response:
        found = await run_in_threadpool(self.store.post, request.path_params["user"], request.path_params["slug"])
        if found is None:
            raise HTTPException(404, "There is no such post.")
        if self._fault("broken_page", found.username) is not None:
            raise HTTPException(503, "The blog is busy. Please come back in a moment.")
        return _html(pages.post(found, await self._session(request)))

    async def list_posts(self, request: Request) -> Response:
        """Posts of a user as JSON, by the requested slug (`marker`), by which a publisher finds its posts."""
        user, marker = request.query_params.get("user", ""), request.query_params.get("marker")
        posts = await run_in_threadpool(self.store.posts, user, marker=marker, limit=50)
        return JSONResponse({"posts": [_public(request, each) for each in posts]}, headers=_HEADERS)

    async def sign_in_form(self, request: Request) -> Response:
        return _sign_in_page(request)

    async def sign_in(self, request: Request) -> Response:
        form = await _form(request)
        cookie = request.cookies.get(_FORM_COOKIE, "")
        if not cookie or not _same(cookie, form.get("form_token", "")):
            return _sign_in_page(request, 403, "The form was too old. Please try again.")
        username, password = form.get("username", "")[:40], form.get("password", "")
        fits = len(password) <= MAX_PASSWORD and await run_in_threadpool(self.store.password_fits, username, password)
        if not fits:
            return _sign_in_page(request, 403, "User name or password is wrong.", username)
        token = await run_in_threadpool(self.store.open_session, username, self._session_seconds)
        answer = RedirectResponse("/-/editor", 303, headers=_HEADERS)
        answer.set_cookie(
            _SESSION_COOKIE, token, max_age=max(1, int(self._session_seconds)), httponly=True, samesite="lax"
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        session, form = await self._session(request), await _form(request)
        if session is not None and _same(session.csrf, form.get("csrf", "")):
            await run_in_threadpool(self.store.end_session, request.cookies[_SESSION_COOKIE])
        answer = RedirectResponse("/", 303, headers=_HEADERS)
        answer.delete_cookie(_SESSION_COOKIE)
        return answer

    async def editor(self, request: Request) -> Response:
        session = await self._session(request)
        if session is None:
            return RedirectResponse("/-/sign-in", 303, headers=_HEADERS)
        slow = self._fault("slow_editor", session.username)
        return _html(pages.editor(session, int(slow * 1000) if slow is not None else EDITOR_SYNC_MS))

    async def add_post(self, request: Request) -> Response:
        session, form = await self._session(request), await _form(request)
        if session is not None and self._fault("drop_session", session.username) is not None:
            await run_in_threadpool(self.store.end_sessions, session.username)
            session = None
        if session is None:
            return RedirectResponse("/-/sign-in", 303, headers=_HEADERS)
        if not _same(session.csrf, form.get("csrf", "")):
            raise HTTPException(403, "The form did not come from this session.")
        title, slug, tags = _fields(form)
        await self._before_commit(session.username)
        body = "" if self._fault("lose_body", session.username) is not None else clean_html(form.get("body", ""))
        made = await run_in_threadpool(self.store.add_post, session.username, slug, title, body, tags)
        await self._after_commit(session.username)
        return RedirectResponse(made.path, 303, headers=_HEADERS)

    async def create_user(self, request: Request) -> Response:
        wanted = await _control(request)
        try:
            new = await run_in_threadpool(
                self.store.create_user, str(wanted["username"]), str(wanted["password"]), wanted.get("title")
            )
        except (KeyError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        return JSONResponse({"username": wanted["username"]}, 201 if new else 200)

    async def set_faults(self, request: Request) -> Response:
        wanted = await _control(request)
        assert self._faults is not None, "the route exists only with faults"
        if request.method == "DELETE":
            self._faults.clear()
            return Response(status_code=204)
        try:
            self._faults.add(wanted.pop("kind"), **wanted)
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        return JSONResponse({"waiting": len(self._faults.waiting())}, 201)

    async def _before_commit(self, user: str) -> None:
        if (seconds := self._fault("slow_before", user)) is not None:
            await asyncio.sleep(seconds)
        if (seconds := self._fault("hang_before", user)) is not None:
            await asyncio.sleep(seconds)
            raise HTTPException(503, "The blog did not take the post.")
        if self._fault("error_before", user) is not None:
            raise HTTPException(500, "Something broke before the post was kept.")

    async def _after_commit(self, user: str) -> None:
        for kind in ("slow_after", "hang_after"):
            if (seconds := self._fault(kind, user)) is not None:
                await asyncio.sleep(seconds)
        if self._fault("error_after", user) is not None:
            raise HTTPException(500, "Something broke.")

    def _fault(self, kind: str, user: str) -> float | None:
        """Take a pending fault, and return its seconds; None if there is none."""
        fault = self._faults.take(kind, user) if self._faults is not None else None
        return None if fault is None else fault.seconds

    async def _session(self, request: Request) -> Session | None:
        token = request.cookies.get(_SESSION_COOKIE)
        return await run_in_threadpool(self.store.session, token) if token else None


def _fields(form: dict[str, str]) -> tuple[str, str, tuple[str, ...]]:
    """Title, slug and tags of a new post.

    Raises:
        HTTPException: 422, with what is wrong.
    """
    title = " ".join(form.get("title", "").split())
    if not title or len(title) > MAX_TITLE:
        raise HTTPException(422, f"A post needs a title of at most {MAX_TITLE} characters.")
    tags = tuple(dict.fromkeys(tag.strip()[:MAX_TAG] for tag in form.get("tags", "").split(",") if tag.strip()))
    slug = form.get("slug", "").strip()
    return title, slug_of(slug) if slug else "", tags[:MAX_TAGS]


def _public(request: Request, post: StoredPost) -> dict[str, Any]:
    base = str(request.base_url).rstrip("/")
    return {"id": post.id, "url": base + post.path, "slug": post.slug, "marker": post.marker, "title": post.title}


async def _body(request: Request) -> bytes:
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > MAX_BODY:
            raise HTTPException(413, "That is too large for this blog.")
    return bytes(read)


async def _form(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Only forms are taken here.")
    try:
        values = parse_qs((await _body(request)).decode(), keep_blank_values=True, max_num_fields=50, errors="strict")
    except ValueError:
        raise HTTPException(400, "The form could not be read.") from None
    return {name: given[-1] for name, given in values.items()}


async def _control(request: Request) -> dict[str, Any]:
    """The JSON body of a control call, after checking that it is from this machine and not from a web page."""
    client = request.client.host if request.client else ""
    if client not in _LOOPBACK or "x-forwarded-for" in request.headers or CONTROL_HEADER not in request.headers:
        raise HTTPException(404, "There is no such page.")
    raw = await _body(request)
    try:
        wanted = json.loads(raw) if raw else {}
    except ValueError:
        raise HTTPException(400, "The body is not JSON.") from None
    if not isinstance(wanted, dict):
        raise HTTPException(422, "The body must be a JSON object.")
    return wanted


def _same(known: str, given: str) -> bool:
    return hmac.compare_digest(known.encode(), given.encode("utf-8", "surrogatepass"))


def _html(text: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(text, status, headers=_HEADERS)


def _sign_in_page(request: Request, status: int = 200, fault: str | None = None, username: str = "") -> Response:
    token = request.cookies.get(_FORM_COOKIE) or secrets.token_urlsafe(24)
    answer = _html(pages.sign_in(token, fault, username), status)
    answer.set_cookie(_FORM_COOKIE, token, httponly=True, samesite="strict", path="/-/sign-in")
    return answer


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Nothing here", 403: "Not allowed", 413: "Too large", 422: "Please correct that", 503: "Busy"}
    title = titles.get(error.status_code, "That did not work")
    return _html(pages.problem(error.status_code, title, error.detail), error.status_code)


async def _crashed(request: Request, error: Exception) -> Response:
    return _html(pages.problem(500, "Something broke", "The demo blog has a fault of its own."), 500)
