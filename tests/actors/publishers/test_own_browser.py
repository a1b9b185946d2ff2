"""What can only be shown with a browser of a step's own: its start, its death, and the hosts that it may not reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest

from actors.errors import UnsafeUrl
from actors.publishing import publish_draft
from actors.signals import Retry, Snooze
from actors.testing import MemoryPort
from tests.actors.publishers.demo_site import PASSWORD, DemoBlog, kill_browsers
from tests.support.ports import make_context

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


@pytest.fixture
def port(demo_blog: DemoBlog, name: str, browser_settings: Callable[..., dict[str, Any]]) -> MemoryPort:
    demo_blog.store.create_user(name, PASSWORD)
    return MemoryPort(
        settings={"browser": browser_settings(demo_blog.host)},
        target={"publisher": "demo", "base_url": demo_blog.url, "options": {}},
        draft={"id": "d", "title": "A post", "body": "Text.", "tags": [], "status": "pending_publish", "version": 1},
        credentials={"username": name, "password": PASSWORD},
        marker=name,
    )


def test_a_step_starts_a_browser_publishes_and_leaves_nothing_running(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    before = set(psutil.Process().children(recursive=True))
    publish_draft(make_context(port))
    assert len(demo_blog.store.posts(name)) == 1
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=60)
    assert alive == []


def test_a_site_that_is_not_allowed_is_not_reached(demo_blog: DemoBlog, port: MemoryPort, name: str) -> None:
    port.settings["browser"]["allowed_hosts"] = ["127.0.0.1:1", "example.com"]
    with pytest.raises(UnsafeUrl, match="not a public address"):
        publish_draft(make_context(port))
    assert demo_blog.store.posts(name) == []


def test_a_browser_that_is_killed_at_the_click_loses_and_doubles_nothing(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    now = [0.0]
    port.now = lambda: now[0]

    def kill() -> None:
        port.fail.clear()
        kill_browsers()

    port.fail["publication.started"] = kill
    with pytest.raises(Retry, match="looking for the post"):
        publish_draft(make_context(port), pause=lambda seconds: None)
    assert port.publication is not None
    assert port.publication["status"] == "started"
    with pytest.raises(Snooze):
        publish_draft(make_context(port))
    now[0] += 60
    publish_draft(make_context(port))
    assert len(demo_blog.store.posts(name)) == 1
