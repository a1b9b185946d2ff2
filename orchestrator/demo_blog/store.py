"""The demo blog's users, sessions and posts in one SQLite file, safe against kill -9.

Invariants:
- An accepted post is on disk. Posts are never removed, so their number is the number of publishes.
- Passwords are stored as scrypt hashes, session tokens as SHA-256; both are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USERNAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
SESSION_SECONDS = 12 * 3600.0
MAX_PASSWORD = 200
MAX_SLUG = 120

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    username TEXT PRIMARY KEY, title TEXT NOT NULL, salt BLOB NOT NULL, password BLOB NOT NULL, created_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sessions (
    token BLOB PRIMARY KEY, username TEXT NOT NULL REFERENCES users, csrf TEXT NOT NULL, expires_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS posts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL REFERENCES users, slug TEXT NOT NULL,
    marker TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL, tags TEXT NOT NULL, created_at REAL NOT NULL,
    UNIQUE (username, slug)
) STRICT;
CREATE INDEX IF NOT EXISTS posts_by_marker ON posts (username, marker);
"""


@dataclass(frozen=True, slots=True)
class StoredPost:
    """A post as it was accepted; `body` is sanitized HTML, `marker` the requested slug, `created_at` Unix time."""

    id: int
    username: str
    slug: str
    marker: str
    title: str
    body: str
    tags: tuple[str, ...]
    created_at: float

    @property
    def path(self) -> str:
        return f"/{self.username}/{self.slug}"


@dataclass(frozen=True, slots=True)
class Blog:
    """A user's blog with the number of its posts."""

    username: str
    title: str
    posts: int


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser; every form must send `csrf`."""

    username: str
    csrf: str


class BlogStore:
    """The file `demo-blog.sqlite3` in `data_dir`, created at first use. Safe to use from threads and processes."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / "demo-blog.sqlite3"
        with self._connect() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)

    def create_user(self, username: str, password: str, title: str | None = None) -> bool:
        """Create a user with a blog; True if it is new. An existing user gets this password.

        Raises:
            ValueError: the name or the password cannot be used.
        """
        if not USERNAME.fullmatch(username):
            raise ValueError(f"user name {username!r}: 1 to 40 of a-z, 0-9 and -, not beginning with -")
        if not 8 <= len(password) <= MAX_PASSWORD:
            raise ValueError(f"the password needs 8 to {MAX_PASSWORD} characters")
        salt = secrets.token_bytes(16)
        hashed = _hash(password, salt)
        with self._write() as connection:
            new = connection.execute("SELECT 1 FROM users WHERE username = ?", (username,)).fetchone() is None
            connection.execute(
                "INSERT INTO users VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (username) DO UPDATE SET salt = excluded.salt, password = excluded.password",
                (username, (title or f"{username}'s blog")[:200], salt, hashed, time.time()),
            )
        return new

    def password_fits(self, username: str, password: str) -> bool:
        """Whether the password is right. An unknown user takes as long as a wrong password."""
        with self._connect() as connection:
            row = connection.execute("SELECT salt, password FROM users WHERE username = ?", (username,)).fetchone()
        salt, expected = row or (b"nobody has this!", bytes(32))
        return hmac.compare_digest(_hash(password[:MAX_PASSWORD], salt), expected) and row is not None

    def open_session(self, username: str, seconds: float = SESSION_SECONDS) -> str:
        """Start a session that expires after `seconds`; returns its token, which is stored only as a hash."""
        token = secrets.token_urlsafe(32)
        now = time.time()
        with self._write() as connection:
            connection.execute("DELETE FROM sessions WHERE expires_at < ?", (now,))
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)",
                (_token_hash(token), username, secrets.token_urlsafe(24), now + seconds),
            )
        return token

    def session(self, token: str) -> Session | None:
        """The session of a token, or None if it has expired or does not exist."""
        with self._connect() as connection:
            row = connection.execute(
                "SELECT username, csrf FROM sessions WHERE token = ? AND expires_at > ?",
                (_token_hash(token), time.time()),
            ).fetchone()
        return Session(*row) if row else None

    def end_session(self, token: str) -> None:
        with self._write() as connection:
            connection.execute("DELETE FROM sessions WHERE token = ?", (_token_hash(token),))

    def end_sessions(self, username: str) -> None:
        """End all sessions of a user, like a site that signs all users out."""
        with self._write() as connection:
            connection.execute("DELETE FROM sessions WHERE username = ?", (username,))

    def add_post(self, username: str, slug: str, title: str, body: str, tags: tuple[str, ...]) -> StoredPost:
        """Store a post. A slug that is taken gets the next free ``-2``, ``-3``, … as in WordPress."""
        marker = slug[:MAX_SLUG] or slug_of(title)
        with self._write() as connection:
            taken = {
                row[0]
                for row in connection.execute(
                    "SELECT slug FROM posts WHERE username = ? AND (slug = ? OR slug GLOB ? || '-[0-9]*')",
                    (username, marker, marker),
                )
            }
            number, free = 1, marker
            while free in taken:
                number += 1
                free = f"{marker}-{number}"
            row = (username, free, marker, title, body, json.dumps(tags), time.time())
            cursor = connection.execute(
                "INSERT INTO posts (username, slug, marker, title, body, tags, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            post_id = cursor.lastrowid
        assert post_id is not None, "an INSERT gives a row id"
        return StoredPost(post_id, username, free, marker, title, body, tags, row[-1])

    def posts(self, username: str | None = None, *, marker: str | None = None, limit: int = 1000) -> list[StoredPost]:
        """Posts, newest first: all, or those of a user, or those with one requested slug."""
        return self._select(
            "WHERE (?1 IS NULL OR username = ?1) AND (?2 IS NULL OR marker = ?2) ORDER BY id DESC LIMIT ?3",
            (username, marker, limit),
        )

    def post(self, username: str, slug: str) -> StoredPost | None:
        found = self._select("WHERE username = ? AND slug = ?", (username, slug))
        return found[0] if found else None

    def blogs(self) -> list[Blog]:
        """All blogs, by name."""
        return self._blogs("ORDER BY username", ())

    def blog(self, username: str) -> Blog | None:
        return next(iter(self._blogs("WHERE username = ?", (username,))), None)

    def _blogs(self, rest: str, values: tuple[object, ...]) -> list[Blog]:
        count = "(SELECT count(*) FROM posts p WHERE p.username = u.username)"
        with self._connect() as connection:
            rows = connection.execute(f"SELECT username, title, {count} FROM users u {rest}", values)  # noqa: S608
            return [Blog(*row) for row in rows]

    def _select(self, rest: str, values: tuple[object, ...]) -> list[StoredPost]:
        with self._connect() as connection:
            rows = connection.execute(
                f"SELECT id, username, slug, marker, title, body, tags, created_at FROM posts {rest}",  # noqa: S608
                values,
            ).fetchall()
        return [
            StoredPost(number, user, slug, marker, title, body, tuple(json.loads(tags)), created_at)
            for number, user, slug, marker, title, body, tags, created_at in rows
        ]

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def slug_of(title: str) -> str:
    """A slug from a title; ``post`` if no character of it fits a URL."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:MAX_SLUG] or "post"


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1, dklen=32)


def _token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
