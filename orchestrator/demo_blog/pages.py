"""The demo blog's pages as HTML. All user input is escaped here; bodies are sanitized when they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from actors.markdown import plain_text

from .store import Blog, Session, StoredPost

_EXCERPT = 180


def index(blogs: Sequence[Blog], latest: Sequence[StoredPost], session: Session | None) -> str:
    cards = "".join(
        f'<li class="card"><a class="card-link" href="/{blog.username}/">{escape(blog.title)}</a>'
        f'<p class="quiet">{_count(blog.posts)}</p></li>'
        for blog in blogs
    )
    shown = f'<ul class="cards">{cards}</ul>' if blogs else _empty("No blogs yet.", "onelane makes one per account.")
    posts = _post_list(latest, by=True) if latest else _empty("No posts yet.", "They appear here once published.")
    return _page("All blogs", f"<h1>All blogs</h1>{shown}<h2>Latest posts</h2>{posts}", session)


def blog(found: Blog, posts: Sequence[StoredPost], session: Session | None) -> str:
    listed = _post_list(posts) if posts else _empty("No posts yet.", "This blog is still empty.")
    head = f'<h1>{escape(found.title)}</h1><p class="quiet">{_count(found.posts)}</p>'
    return _page(found.title, head + listed, session)


def post(found: StoredPost, session: Session | None) -> str:
    tags = "".join(f'<li class="tag">{escape(tag)}</li>' for tag in found.tags)
    body = found.body or '<p class="quiet">This post has no text.</p>'
    article = (
        f'<article class="post" data-post-id="{found.id}"><h1 class="post-title">{escape(found.title)}</h1>'
        f'<p class="quiet"><a href="/{found.username}/">{escape(found.username)}</a> · {_when(found.created_at)}</p>'
        f'<div class="post-body">{body}</div>'
        + (f'<ul class="tags" aria-label="Tags">{tags}</ul>' if tags else "")
        + "</article>"
    )
    return _page(found.title, article, session)


def sign_in(form_token: str, fault: str | None = None, username: str = "") -> str:
    message = f'<p class="fault" role="alert">{escape(fault)}</p>' if fault else ""
    form = (
        f'<h1>Sign in</h1><form class="sheet narrow" method="post" action="/-/sign-in" data-page="sign-in">{message}'
        f'<input type="hidden" name="form_token" value="{escape(form_token)}">'
        '<label>User name<input name="username" autocomplete="username" autocapitalize="none" required maxlength="40" '
        f'value="{escape(username)}"></label>'
        '<label>Password<input name="password" type="password" autocomplete="current-password" required '
        'maxlength="200"></label><button class="primary">Sign in</button></form>'
    )
    return _page("Sign in", form, None)


def editor(session: Session, sync_ms: int) -> str:
    tools = "".join(
        f'<button type="button" data-command="{command}"'
        + (f' data-value="{value}"' if value else "")
        + f' title="{title}">{sign}</button>'
        for command, value, title, sign in (
            ("bold", "", "Bold", "<b>B</b>"),
            ("italic", "", "Italic", "<i>I</i>"),
            ("formatBlock", "h2", "Heading", "H"),
            ("insertUnorderedList", "", "List", "•"),
            ("insertOrderedList", "", "Numbered list", "1."),
            ("formatBlock", "blockquote", "Quotation", "”"),
        )
    )
    form = (
        '<h1>New post</h1><form class="sheet" method="post" action="/-/posts" id="editor" data-page="editor" '
        f'data-user="{session.username}" data-state="synced" data-sync-ms="{sync_ms}">'
        f'<input type="hidden" name="csrf" value="{escape(session.csrf)}">'
        '<label>Title<input name="title" required maxlength="500"></label>'
        f'<div><span class="label" id="body-label">Text</span><div class="tools">{tools}</div>'
        '<div class="rich post-body" contenteditable="true" role="textbox" aria-multiline="true" '
        'aria-labelledby="body-label" data-rich></div></div><textarea name="body" hidden></textarea>'
        '<div class="columns"><label>Slug<input name="slug" maxlength="120" pattern="[a-z0-9\\-]*" '
        'placeholder="made from the title"></label>'
        '<label>Tags, with commas<input name="tags" maxlength="3200"></label></div>'
        '<div class="row"><button class="primary" id="publish">Publish</button>'
        '<span class="quiet" data-status aria-live="polite"></span></div></form>'
        '<script src="/-/static/editor.js" defer></script>'
    )
    return _page("New post", form, session)


def problem(status: int, title: str, text: str, session: Session | None = None) -> str:
    body = f'<div class="empty" data-page="problem"><p class="big">{status}</p><h1>{escape(title)}</h1>'
    return _page(title, f'{body}<p class="quiet">{escape(text)}</p><p><a href="/">To all blogs</a></p></div>', session)


def _page(title: str, main: str, session: Session | None) -> str:
    if session is None:
        nav = '<a href="/-/sign-in">Sign in</a>'
    else:
        nav = (
            f'<a href="/{session.username}/">{escape(session.username)}</a><a href="/-/editor">New post</a>'
            '<form method="post" action="/-/sign-out">'
            f'<input type="hidden" name="csrf" value="{escape(session.csrf)}"><button class="plain">Sign out</button>'
            "</form>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(title)} · demo blog</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/-/static/style.css"></head><body>'
        '<header><a class="name" href="/">demo blog</a><span class="badge">for trying onelane out</span>'
        f"<nav>{nav}</nav></header><main>{main}</main>"
        "<footer>This is a demo blog. It runs on this machine and nothing on it is meant for the public.</footer>"
        "</body></html>"
    )


def _post_list(posts: Sequence[StoredPost], *, by: bool = False) -> str:
    rows = []
    for each in posts:
        text = plain_text(each.body)
        excerpt = text if len(text) <= _EXCERPT else text[:_EXCERPT].rsplit(" ", 1)[0] + " …"
        author = f'<a href="/{each.username}/">{escape(each.username)}</a> · ' if by else ""
        rows.append(
            f'<li class="entry"><h3><a href="{each.path}">{escape(each.title)}</a></h3>'
            f'<p class="quiet">{author}{_when(each.created_at)}</p><p>{escape(excerpt)}</p></li>'
        )
    return f'<ul class="entries">{"".join(rows)}</ul>'


def _empty(title: str, text: str) -> str:
    return f'<div class="empty"><p>{title}</p><p class="quiet">{text}</p></div>'


def _count(posts: int) -> str:
    return "1 post" if posts == 1 else f"{posts} posts"


def _when(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return f'<time datetime="{at.isoformat()}">{at:%d %B %Y, %H:%M} UTC</time>'
