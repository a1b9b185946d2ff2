"""A real Chromium for one step, whose only network access is the egress proxy.

Invariants
- Each step has its own browser with its own temporary profile: accounts never share them.
- Every connection of every page goes through `EgressProxy`; Chromium resolves no name and connects to nothing else.
- Waits are bounded by the step's deadline. Calls that Playwright cannot bound (`evaluate`, `content`, …) end with the
  step's process.

Chromium runs without its own sandbox, because containers seldom allow it; the step's process isolates it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import psutil
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, Playwright, Response, StorageState, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from ..errors import ProviderError, ProviderTimeout, UnsafeUrl
from .egress import REFUSED_HEADER, EgressProxy

_log = logging.getLogger(__name__)

_LAUNCH_SECONDS = 30.0
_ACTION_SECONDS = 30.0
_CLOSE_SECONDS = 3.0
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Nothing may bypass the proxy: names are not resolved here, and UDP is off.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)


class Browser:
    """A running Chromium. Its contexts end with it."""

    def __init__(self, chromium: Chromium, proxy: EgressProxy, remaining_seconds: Callable[[], float]) -> None:
        self._chromium = chromium
        self._proxy = proxy
        self._remaining_seconds = remaining_seconds

    @property
    def refusals(self) -> Sequence[str]:
        """The refused requests of pages, oldest first."""
        return tuple(self._proxy.refusals)

    @property
    def contexts(self) -> Sequence[BrowserContext]:
        """The open contexts, oldest first."""
        return self._chromium.contexts

    def timeout_ms(self, at_most_seconds: float = _ACTION_SECONDS) -> float:
        """A time-out for Playwright: `at_most_seconds`, or the step's remaining time if that is less."""
        return max(1.0, 1000 * min(at_most_seconds, self._remaining_seconds()))

    def context(
        self, storage_state: Mapping[str, Any] | None = None, *, javascript: bool = True, width: int = 1440
    ) -> BrowserContext:
        """A new context with its own cookies and storage, restored from `storage_state` if given."""
        context = self._chromium.new_context(
            storage_state=cast("StorageState | None", storage_state),
            java_script_enabled=javascript,
            viewport={"width": width, "height": 900},
            service_workers="block",
            accept_downloads=False,
            locale="en-US",
        )
        context.set_default_timeout(self.timeout_ms())
        context.set_default_navigation_timeout(self.timeout_ms())
        return context

    def goto(self, page: Page, url: str, *, at_most_seconds: float = _ACTION_SECONDS) -> Response:
        """Open a URL and wait for its document; returns the response of the last hop, whatever its status.

        Raises:
            UnsafeUrl: the page, or a redirect, leads to an address that is not allowed.
            ProviderTimeout: it did not answer in time.
            ProviderError: it could not be reached.
        """
        try:
            response = page.goto(url, wait_until="domcontentloaded", timeout=self.timeout_ms(at_most_seconds))
        except PlaywrightError as error:
            if isinstance(error, PlaywrightTimeout):
                raise ProviderTimeout(f"{url} did not answer within {at_most_seconds:g} s") from error
            if "ERR_TUNNEL_CONNECTION_FAILED" in error.message and self.refusals:
                raise UnsafeUrl(self.refusals[-1]) from error
            raise ProviderError(f"{url} cannot be opened: {first_line(error)}") from error
        if response is None:
            raise ProviderError(f"{url} is already open; nothing was fetched")
        refused = response.headers.get(REFUSED_HEADER)
        if refused == "unsafe":
            raise UnsafeUrl(response.text()[:500])
        if refused:
            raise ProviderError(f"{url} cannot be opened: {response.text()[:500]}")
        return response

    def evidence(self) -> bytes | None:
        """A screenshot (PNG) of the page that was opened last; None if there is no page, or it takes over 5 seconds."""
        pages = [page for context in self.contexts for page in context.pages if not page.is_closed()]
        if not pages:
            return None
        try:
            return pages[-1].screenshot(timeout=self.timeout_ms(5), animations="disabled")
        except PlaywrightError as error:
            _log.warning("no screenshot of the page: %s", first_line(error))
            return None


def first_line(error: PlaywrightError) -> str:
    """A Playwright error in one line, without its long call log."""
    return error.message.partition("\n")[0][:300]


@contextlib.contextmanager
def page_errors(what: str) -> Iterator[None]:
    """Turn Playwright's errors into step errors; `what` describes the action.

    Raises:
        ProviderTimeout: a page was too slow.
        ProviderError: any other error of Playwright, including the browser's death.
    """
    try:
        yield
    except PlaywrightTimeout as error:
        raise ProviderTimeout(f"{what}: {first_line(error)}") from error
    except PlaywrightError as error:
        raise ProviderError(f"{what}: {first_line(error)}") from error


@contextlib.contextmanager
def open_browser(settings: Mapping[str, Any], remaining_seconds: Callable[[], float]) -> Iterator[Browser]:
    """Start a Chromium for one step and end it with the `with` block.

    `settings` is the worker's answer to ``client.settings`` for the browser: ``executable`` (a path, or None for the
    one that Playwright installed), ``allowed_hosts`` and ``headless``.

    Raises:
        ProviderError: Chromium or Playwright's driver does not start; the message says why.
    """
    with EgressProxy(settings.get("allowed_hosts", ())) as proxy, _driver() as playwright:
        driver_children = _children()
        try:
            chromium = playwright.chromium.launch(
                executable_path=settings.get("executable"),
                headless=settings.get("headless", True),
                args=list(_FLAGS),
                proxy={"server": proxy.url, "bypass": "<-loopback>"},
                timeout=max(1.0, 1000 * min(_LAUNCH_SECONDS, remaining_seconds())),
                handle_sigint=False,
                handle_sigterm=False,
                handle_sighup=False,
            )
        except PlaywrightError as error:
            raise ProviderError(f"the browser does not start: {error.message[:600]}") from error
        try:
            yield Browser(chromium, proxy, remaining_seconds)
        finally:
            # All current ones: a single frozen renderer holds the pipe that Playwright waits for.
            with _killed_after(_CLOSE_SECONDS, _children() - driver_children):
                _close(chromium)


@contextlib.contextmanager
def _driver() -> Iterator[Playwright]:
    started = sync_playwright()
    try:
        playwright = started.__enter__()
    except Exception as error:  # Playwright raises bare ones when its driver dies at the start
        raise ProviderError(
            f"Playwright's driver does not start: {str(error)[:300]}; `playwright --version` says why, and often "
            "libatomic1 is missing"
        ) from error
    try:
        yield playwright
    finally:
        started.__exit__(None, None, None)


def _close(chromium: Chromium) -> None:
    try:
        chromium.close()
    except PlaywrightError as error:  # it was already dead, or was killed because it hung
        _log.warning("the browser did not close: %s", first_line(error))


def _children() -> set[psutil.Process]:
    return set(psutil.Process(os.getpid()).children(recursive=True))


@contextlib.contextmanager
def _killed_after(seconds: float, processes: set[psutil.Process]) -> Iterator[None]:
    """Kill the processes if the block takes too long: closing a frozen Chromium would take 30 seconds."""

    def kill() -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
