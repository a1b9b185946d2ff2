"""HTTP for steps and publishers: every connection is judged, and every exchange has a bound on time and size.

Invariants
- A private address is reached only as `ONELANE_ALLOWED_HOSTS` says, and the address that was judged is the one that is
  connected to (`connections`). Each redirect is judged as a URL of its own.
- No proxy of the environment is used; it would connect wherever it likes.
- An exchange ends in time, also when the server sends one byte now and then, and no answer fills the memory.
"""

from __future__ import annotations

import json as json_text
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import httpcore2

from ..errors import ProviderError, ProviderTimeout, UnsafeUrl
from .connections import Deadline, JudgedAddresses, wire_url
from .safe_url import check_url

#: Bounds of one exchange, redirects included.
REQUEST_SECONDS = 30.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Headers that only the host which they were written for may read.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
#: Headers that this client writes by itself: two of them in one request are read differently by different servers.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer. `url` is where it came from, after redirects; the names of `headers` are in lower case."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    def text(self) -> str:
        """The body as text in its own character set; what does not fit that becomes a replacement character."""
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
            ProviderError: it is none.
        """
        try:
            return json_text.loads(self.content)
        except (ValueError, RecursionError):
            shown = self.text()[:200]
            raise ProviderError(f"{self.url} answers {self.status} and no JSON: {shown!r}") from None


class Http:
    """Makes requests, each over a connection of its own. From a step: `ctx.clients.http()`."""

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

        `params` are added to the URL's query; `json` is sent as JSON, `content` as it is. The time is bounded by
        `at_most_seconds` and by what the step has left.

        Raises:
            UnsafeUrl: the URL, or a redirect, leads where this installation does not allow.
            ProviderTimeout: there was no whole answer in time.
            ProviderError: nobody answered, or not in HTTP, or the answer is larger than `max_bytes`.
            ValueError: the request itself is out of shape.
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
            if _origin(following) != _origin(target):
                sent = {name: value for name, value in sent.items() if name not in _PRIVATE_HEADERS}
            target = following
            if time.monotonic() >= ends_at:
                raise ProviderTimeout(f"{method} {url} did not answer within {seconds:g} s")
        raise ProviderError(f"{method} {url} is redirected more than {MAX_REDIRECTS} times, at last to {target}")

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, deadline: Deadline, max_bytes: int
    ) -> HttpAnswer:
        resolved = check_url(url, self._allowed_hosts)
        try:
            with (
                httpcore2.ConnectionPool(network_backend=JudgedAddresses(resolved, deadline)) as pool,
                pool.stream(method, wire_url(url), headers=list(headers.items()), content=body) as answer,
            ):
                return HttpAnswer(url, answer.status, _answer_headers(answer), _read(url, answer, max_bytes))
        except httpcore2.TimeoutException as error:
            raise ProviderTimeout(f"{method} {url} did not answer in time") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, OSError) as error:
            raise ProviderError(f"{method} {url} failed: {type(error).__name__}: {str(error)[:300]}") from error


def _request_headers(
    given: Mapping[str, str] | None, json: Any, content: bytes | None
) -> tuple[dict[str, str], bytes | None]:
    if json is not None and content is not None:
        raise ValueError("a request has json or content, not both")
    headers = {name.lower(): value for name, value in (given or {}).items()}
    owned = sorted(_OWN_HEADERS & headers.keys())
    if owned:
        raise ValueError(f"the headers {', '.join(owned)} are written by the client itself")
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
    """The body, up to the bound; what is larger is refused before it is held."""
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


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise UnsafeUrl(f"{url!r} is not a URL: {error}") from None
