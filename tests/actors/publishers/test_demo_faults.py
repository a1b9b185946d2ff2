"""The bad moments of a publish, one by one, against a demo blog with faults: one post, never two."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from actors import publishing
from actors.clients.publishers.base import PublisherClients
from actors.clients.publishers.demo import DemoPublisher
from actors.errors import ProviderError, PublishFailed, ReadbackMismatch, StepError
from actors.port import Target
from actors.publishing import publish_draft
from actors.signals import Retry
from actors.testing import MemoryPort
from tests.actors.publishers.demo_site import PASSWORD, DemoBlog
from tests.support.ports import make_context

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240), pytest.mark.usefixtures("lent_browser")]

#: Long enough for a click to arrive on a starved machine: before that, nothing can be said of what the fault did.
SUBMIT_SECONDS = 3.0


@pytest.fixture
def port(demo_blog: DemoBlog, name: str) -> MemoryPort:
    """An account of the demo blog."""
    demo_blog.store.create_user(name, PASSWORD)
    return MemoryPort(
        target={"publisher": "demo", "base_url": demo_blog.url, "options": {}},
        draft={
            "id": "d",
            "title": "A post",
            "body": "All of **this** text.",
            "tags": [],
            "status": "pending_publish",
            "version": 1,
        },
        credentials={"username": name, "password": PASSWORD},
        marker=name,
    )


def no_pause(seconds: float) -> None:
    """Where nothing can come into effect late, waiting for it proves nothing."""


def attempt(port: MemoryPort, pause: Callable[[float], None] = no_pause, *, patient: bool = True) -> dict[str, Any]:
    """One attempt; an impatient publisher waits only a few seconds for the answer to a post."""

    def impatient(target: Target, clients: PublisherClients) -> DemoPublisher:
        return DemoPublisher(target, clients, submit_seconds=SUBMIT_SECONDS)

    with pytest.MonkeyPatch.context() as patch:
        if not patient:
            patch.setattr(publishing, "open_publisher", impatient)
        return publish_draft(make_context(port), pause=pause)


def status(port: MemoryPort) -> str:
    assert port.publication is not None
    return str(port.publication["status"])


@pytest.mark.parametrize("kind", ["error_before", "hang_before", "drop_session"])
def test_when_nothing_was_made_it_is_said_and_the_next_attempt_publishes(
    demo_blog: DemoBlog, port: MemoryPort, name: str, kind: str
) -> None:
    demo_blog.faults.add(kind, user=name, seconds=SUBMIT_SECONDS + 3)
    with pytest.raises(StepError) as failed:
        attempt(port, patient=kind != "hang_before")
    assert not failed.value.permanent
    assert isinstance(failed.value, (PublishFailed, ProviderError))
    assert status(port) == "intent"
    assert port.artifacts["publish-failure.png"][1].startswith(b"\x89PNG")
    assert demo_blog.store.posts(name) == []
    attempt(port)
    assert len(demo_blog.store.posts(name)) == 1


@pytest.mark.parametrize("kind", ["error_after", "hang_after", "slow_after"])
def test_when_the_post_was_made_and_the_answer_was_lost_it_is_found(
    demo_blog: DemoBlog, port: MemoryPort, name: str, kind: str
) -> None:
    demo_blog.faults.add(kind, user=name, seconds=SUBMIT_SECONDS + 3)
    assert attempt(port, patient=kind == "error_after")["url"] == f"{demo_blog.url}/{name}/{name}"
    assert status(port) == "confirmed"
    assert len(demo_blog.store.posts(name)) == 1


def test_a_post_that_is_made_after_the_browser_gave_up_is_waited_for(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    # Given a request that is cut off after three seconds and comes into effect after five
    demo_blog.faults.add("slow_before", user=name, seconds=SUBMIT_SECONDS + 2)
    # When the publisher's settling time is really waited out
    attempt(port, time.sleep, patient=False)
    # Then the post was found, and not made again
    assert len(demo_blog.store.posts(name)) == 1
    assert port.verbs().count("publication.started") == 1


def test_an_editor_that_is_slower_than_the_click_gets_its_time(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    demo_blog.faults.add("slow_editor", user=name, seconds=1.5, times=2)
    attempt(port)
    assert "All of <strong>this</strong> text." in demo_blog.store.posts(name)[0].body


def test_a_post_without_its_text_is_noticed_despite_reported_success(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    demo_blog.faults.add("lose_body", user=name)
    with pytest.raises(ReadbackMismatch, match="text"):
        attempt(port)
    assert status(port) == "unknown"
    assert len(demo_blog.store.posts(name)) == 1


def test_a_public_page_that_is_late_is_read_again_and_never_published_again(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    # The author is led to the page after publishing: that is the first of these reads, and the answer is a 503.
    demo_blog.faults.add("broken_page", user=name, times=2)
    attempt(port)
    assert len(demo_blog.store.posts(name)) == 1


def test_a_broken_public_page_leaves_the_post_to_the_next_attempt(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    demo_blog.faults.add("broken_page", user=name, times=4)
    with pytest.raises(ProviderError, match="503"):
        attempt(port)
    assert status(port) == "started"
    attempt(port)
    assert status(port) == "confirmed"
    assert len(demo_blog.store.posts(name)) == 1


def test_a_session_that_ends_at_the_post_and_is_not_renewed_stays_open(
    demo_blog: DemoBlog, port: MemoryPort, name: str
) -> None:
    first = attempt(port)
    assert first["url"]
    port.publication, port.started_at, port.marker, port.credentials = None, None, f"{name}-next", None
    demo_blog.faults.add("drop_session", user=name)
    with pytest.raises(Retry):
        attempt(port)
    assert status(port) == "started"
    assert len(port.login_required) == 1
    assert len(demo_blog.store.posts(name)) == 1
