"""The two targets, each able to say where a post stands and to hold a request at the moment of the kill.

What decides at the end is the target's own record, by the post's title: it knows nothing of markers and ledgers.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Protocol

import uvicorn

from orchestrator.demo_blog.app import create_app
from orchestrator.demo_blog.faults import Faults
from tests.support.wordpress import WordPressSite, running_wordpress

PASSWORD = "correct horse battery staple"


class Target(Protocol):
    """Where posts land."""

    #: The publisher's name.
    name: ClassVar[str]
    #: The moments of the publisher's conversation at which a worker is killed.
    moments: ClassVar[tuple[str, ...]]
    url: str
    #: What stands in the allowed hosts.
    host: str

    def add_user(self, user: str) -> None: ...

    def arm(self, user: str, moment: str, seconds: float) -> None:
        """Prepare the target so that the user's next post dwells in the moment for up to `seconds`."""

    def reached(self, user: str, moment: str) -> bool | None:
        """Whether the target itself saw the moment; None when only the service's own records show it."""

    def posts(self) -> Counter[str]:
        """How many published posts there are, by title."""


class DemoBlog:
    """The demo blog, served by a thread of this process, so that its faults can be seen being met."""

    name: ClassVar[str] = "demo"
    moments: ClassVar[tuple[str, ...]] = (
        "session",
        "writing",
        "started",
        "arrived",
        "accepted",
        "reading",
        "confirmed",
    )
    _FAULTS: ClassVar[dict[str, tuple[str, int]]] = {
        "arrived": ("slow_before", 1),
        "accepted": ("slow_after", 1),
        "reading": ("broken_page", 2),
    }

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.host = f"127.0.0.1:{port}"
        self.faults = Faults()
        self.app = create_app(folder, faults=self.faults)

    def add_user(self, user: str) -> None:
        self.app.state.store.create_user(user, PASSWORD)

    def arm(self, user: str, moment: str, seconds: float) -> None:
        if moment in self._FAULTS:
            kind, times = self._FAULTS[moment]
            self.faults.add(kind, user=user, seconds=seconds, times=times)

    def reached(self, user: str, moment: str) -> bool | None:
        match moment:
            case "arrived":
                return all((fault.user, fault.kind) != (user, "slow_before") for fault in self.faults.waiting())
            case "accepted":
                return bool(self.app.state.store.posts(user))
            case _:
                return None

    def posts(self) -> Counter[str]:
        return Counter(post.title for post in self.app.state.store.posts(limit=1_000_000))


# Leaves a file at each moment of a user's post, and dwells there once while a file asks for it.
_WATCHER = """<?php
function crashes_dwell($moment) {
    $file = '%(folder)s/' . $moment . '-' . wp_get_current_user()->user_login;
    touch($file);
    if (is_file($file . '.dwell')) {
        $seconds = (float) file_get_contents($file . '.dwell');
        unlink($file . '.dwell');
        usleep((int) ($seconds * 1000000));
    }
}
add_filter('rest_pre_dispatch', function ($result, $server, $request) {
    if ($request->get_method() !== 'GET' && $request->get_param('status') === 'publish'
        && preg_match('#^/wp/v2/posts#', $request->get_route())) { crashes_dwell('arrived'); }
    return $result;
}, 10, 3);
add_action('rest_after_insert_post', function ($post) {
    if ($post->post_status === 'publish') { crashes_dwell('accepted'); }
    if ($post->post_status === 'draft') { crashes_dwell('drafted'); }
});
"""


class WordPress:
    """A real WordPress with a must-use plugin that only watches and dwells."""

    name: ClassVar[str] = "wordpress"
    moments: ClassVar[tuple[str, ...]] = (
        "arrived",
        "accepted",
        "drafted",
        "reading",
        "started",
        "writing",
        "session",
        "confirmed",
    )

    def __init__(self, site: WordPressSite) -> None:
        self.site = site
        self.url, self.host = site.url, site.host
        self._moments = site.folder / "moments"
        self._moments.mkdir()
        self._moments.chmod(0o777)
        plugins = site.folder / "wordpress/wp-content/mu-plugins"
        plugins.mkdir(exist_ok=True)
        (plugins / "crashes.php").write_text(_WATCHER % {"folder": self._moments})

    def add_user(self, user: str) -> None:
        self.site.create_user(user, PASSWORD)

    def arm(self, user: str, moment: str, seconds: float) -> None:
        if moment in ("arrived", "accepted", "drafted"):
            (self._moments / f"{moment}-{user}.dwell").write_text(str(seconds))

    def reached(self, user: str, moment: str) -> bool | None:
        if moment in ("arrived", "accepted", "drafted"):
            return (self._moments / f"{moment}-{user}").exists()
        return None

    def posts(self) -> Counter[str]:
        return Counter(post["title"] for post in self.site.posts("") if post["status"] == "publish")


@contextlib.contextmanager
def running_demo_blog(folder: Path) -> Iterator[DemoBlog]:
    """The demo blog on a port of its own, until the end of the block."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        blog = DemoBlog(folder, listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(blog.app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],), name="demo-blog", daemon=True)
        thread.start()
        try:
            _wait_for(server)
            yield blog
        finally:
            server.should_exit = True
            thread.join(timeout=60)


def _wait_for(server: uvicorn.Server) -> None:
    end = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < end, "the demo blog did not start"
        time.sleep(0.01)


@contextlib.contextmanager
def running_wordpress_target() -> Iterator[WordPress]:
    """A fresh WordPress, until the end of the block."""
    with running_wordpress() as site:
        yield WordPress(site)
