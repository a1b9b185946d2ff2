"""HTTP for steps and publishers: every address is checked, and every exchange is bounded in time and size.

Invariants
- A private address is reached only if `ONELANE_ALLOWED_HOSTS` allows it; see `connections`. Each redirect is checked.
- A slow server cannot prolong an exchange, and a large answer cannot fill the memory.
"""

from __future__ import annotations

import json as json_text
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import httpcore2

from ..errors import ProviderError, ProviderTimeout
from .connections import NETWORK_ERRORS, Deadline, exchange
from .safe_url import origin

#: Bounds of one exchange, redirects included.
REQUEST_SECONDS = 30.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Headers that are dropped when a redirect leads to another origin.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
#: Headers that only this client sets: servers differ in how they read a header that is given twice.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer. `url` is its address after redirects; the names of `headers` are in lower case."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    def text(self) -> str:
        """The body, decoded by its declared character set; invalid bytes become replacement characters."""
        charset = "utf-8"
        for part in self.headers.get("content-type", "").split(";")[1:]:
            name, _, value = part.partition("=")
            if name.strip().lower() == "charset":
                charset = value.strip().strip("\"'")
        try:
            return self.content.decode(charset, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ProviderError: it is not JSON.
        """
        try:
            return json_text.loads(self.content)
        except (ValueError, RecursionError):
            shown = self.text()[:200]
            raise ProviderError(f"{self.url} answers {self.status} and no JSON: {shown!r}") from None


class Http:
    """Makes requests, each over a new connection. From a step: `ctx.clients.http()`."""

    def __init__(self, allowed_hosts: Collection[str], remaining_seconds: Callable[[], float]) -> None:
        self._allowed_hosts = tuple(allowed_hosts)
        self._remaining_seconds = remaining_seconds

    def get(self, url: str, **options: Any) -> HttpAnswer:
        """`request` with the method GET."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> HttpAnswer:
        """`request` with the method POST."""
        return self.request("POST", url, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | None = None,
        at_most_seconds: float = REQUEST_SECONDS,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> HttpAnswer:
        """Make one request and read the whole answer, whatever its status. Redirects are followed for GET and HEAD.

        `params` are added to the URL's query; `json` is sent as JSON, `content` unchanged. The time is bounded by
        `at_most_seconds` and by the step's remaining time.

        Raises:
            UnsafeUrl: the URL, or a redirect, leads to an address that is not allowed.
            ProviderTimeout: there was no complete answer in time.
            ProviderError: there was no answer in HTTP, or it is larger than `max_bytes`.
            ValueError: the request is malformed.
        """
        seconds = min(at_most_seconds, self._remaining_seconds())
        if seconds <= 0:
            raise ProviderTimeout(f"{method} {url}: the step has no time left")
        deadline, ends_at = Deadline(seconds), time.monotonic() + seconds
        sent, body = _request_headers(headers, json, content)
        target = _with_params(url, params)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(method, target, sent, body, deadline, max_bytes)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or method not in ("GET", "HEAD"):
                return answer
            following = urljoin(target, location)
            if origin(following) != origin(target):
                sent = {name: value for name, value in sent.items() if name not in _PRIVATE_HEADERS}
            target = following
            if time.monotonic() >= ends_at:
                raise ProviderTimeout(f"{method} {url} did not answer within {seconds:g} s")
        raise ProviderError(f"{method} {url} is redirected more than {MAX_REDIRECTS} times, at last to {target}")

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, deadline: Deadline, max_bytes: int
    ) -> HttpAnswer:
        hosts = self._allowed_hosts
        try:
            with exchange(method, url, allowed_hosts=hosts, headers=headers, content=body, deadline=deadline) as answer:
                return HttpAnswer(url, answer.status, _answer_headers(answer), _read(url, answer, max_bytes))
        except httpcore2.TimeoutException as error:
            raise ProviderTimeout(f"{method} {url} did not answer in time") from error
        except NETWORK_ERRORS as error:
            raise ProviderError(f"{method} {url} failed: {type(error).__name__}: {str(error)[:300]}") from error


def _request_headers(
    given: Mapping[str, str] | None, json: Any, content: bytes | None
) -> tuple[dict[str, str], bytes | None]:
    if json is not None and content is not None:
        raise ValueError("a request has json or content, not both")
    headers = {name.lower(): value for name, value in (given or {}).items()}
    owned = sorted(_OWN_HEADERS & headers.keys())
    if owned:
        raise ValueError(f"the headers {', '.join(owned)} are set by the client itself")
    body = content
    if json is not None:
        body = json_text.dumps(json, allow_nan=False).encode()
        headers.setdefault("content-type", "application/json")
    return {"user-agent": "onelane/1", "accept": "*/*", "accept-encoding": "identity", **headers}, body


def _answer_headers(answer: httpcore2.Response) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in answer.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _read(url: str, answer: httpcore2.Response, max_bytes: int) -> bytes:
    """The body; a larger one than `max_bytes` is refused while it is read."""
    read = bytearray()
    for chunk in answer.iter_stream():
        read += chunk
        if len(read) > max_bytes:
            raise ProviderError(f"{url} answers with more than {max_bytes} bytes")
    return bytes(read)


def _with_params(url: str, params: Mapping[str, Any] | None) -> str:
    if not params:
        return url
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(params, doseq=True)}"
