"""The contract of publishers as a suite of tests: subclass `PublisherContract` where pytest collects it.

    class TestMine(PublisherContract):
        @pytest.fixture
        def site(self) -> ContractSite:
            return ContractSite(Mine, "http://127.0.0.1:8080", Credentials("me", "…"), allowed_hosts=("127.0.0.1",))

It needs pytest and a target to which it may publish. Every test has its own marker.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from .clients import Clients
from .clients.publishers.base import Image, Post, Publisher, PublisherClients, capabilities
from .errors import LoginRequired, ProviderError
from .port import Credentials, Draft, SessionState, Target
from .publisher_trial import TRIAL_BODY, Trial
from .publishing import find_difference

#: A picture of one grey dot.
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6368000000820081"
    "77cd72b60000000049454e44ae426082"
)


@dataclass(frozen=True)
class ContractSite:
    """A target for the suite, and how to publish there."""

    publisher: type[Publisher]
    base_url: str
    credentials: Credentials
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Private hosts that the publisher may reach, as in `ONELANE_ALLOWED_HOSTS`.
    allowed_hosts: tuple[str, ...] = ()
    #: A browser's executable, for publishers that need one.
    chromium: str | None = None
    #: Seconds that one test may take.
    seconds: float = 120.0


class Stopped(Exception):
    """Raised by the suite instead of the commit to the ledger."""


class PublisherContract:
    """The tests for every publisher. A subclass defines the fixture `site`."""

    @pytest.fixture
    def site(self) -> ContractSite:
        raise NotImplementedError("give your subclass a fixture `site` that returns a ContractSite")

    @pytest.fixture
    def clients(self, site: ContractSite) -> Iterator[PublisherClients]:
        with PublisherClients(Clients(_Settings(site), lambda: site.seconds)) as made:
            yield made

    @pytest.fixture
    def marker(self) -> str:
        return f"contract-{secrets.token_hex(6)}"

    @pytest.fixture
    def publisher(self, site: ContractSite, clients: PublisherClients) -> Publisher:
        """A publisher that is signed in."""
        made = opened(site, clients)
        made.ensure_session(SessionState(None, site.credentials))
        return made

    def test_a_post_is_made_read_back_and_found(self, site: ContractSite, clients: PublisherClients) -> None:
        trial = Trial(opened(site, clients), SessionState(None, site.credentials))
        for stage in trial.run():
            assert stage.ok, f"{stage.name}: {stage.detail}"

    def test_another_publisher_finds_the_post(
        self, site: ContractSite, clients: PublisherClients, publisher: Publisher, marker: str
    ) -> None:
        post = publisher.publish(draft("Found again"), marker, lambda: None)
        other = opened(site, clients)
        other.ensure_session(SessionState(None, site.credentials))
        assert other.find(marker) == post
        assert other.find(f"{marker}-not") is None

    def test_nothing_is_public_before_before_submit_returns(self, publisher: Publisher, marker: str) -> None:
        def stop() -> None:
            raise Stopped

        with pytest.raises(Stopped):
            publisher.publish(draft("Never"), marker, stop)
        assert publisher.find(marker) is None

    def test_a_stopped_publish_can_be_done_again(self, publisher: Publisher, marker: str) -> None:
        calls: list[int] = []

        def stop_once() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise Stopped

        wanted = draft("At last")
        with pytest.raises(Stopped):
            publisher.publish(wanted, marker, stop_once)
        post = publisher.publish(wanted, marker, stop_once)
        assert len(calls) == 2
        assert publisher.find(marker) == post
        assert find_difference(wanted, publisher.read_back(post.url)) is None

    @pytest.mark.parametrize("wrong", ["password", "nothing"])
    def test_a_refused_sign_in_does_not_reveal_the_password(
        self, site: ContractSite, clients: PublisherClients, wrong: str
    ) -> None:
        credentials = Credentials(site.credentials.username, "not-this-password") if wrong == "password" else None
        with pytest.raises(LoginRequired) as refused:
            opened(site, clients).ensure_session(SessionState(None, credentials))
        assert "not-this-password" not in str(refused.value)

    def test_a_page_that_is_not_there_is_an_error(self, site: ContractSite, publisher: Publisher) -> None:
        with pytest.raises(ProviderError):
            publisher.read_back(f"{site.base_url.rstrip('/')}/no-such-page-{secrets.token_hex(4)}/")

    def test_an_update_changes_the_post_that_is_there(self, publisher: Publisher, marker: str) -> None:
        update = _capability(publisher, "update")
        post = publisher.publish(draft("Before"), marker, lambda: None)
        changed = draft("After")
        for _ in range(2):  # twice is once
            assert update(post, changed) == post
        assert find_difference(changed, publisher.read_back(post.url)) is None

    def test_a_removed_post_is_gone(self, publisher: Publisher, marker: str) -> None:
        remove = _capability(publisher, "remove")
        post: Post = publisher.publish(draft("Not for long"), marker, lambda: None)
        for _ in range(2):
            remove(post)
        assert publisher.find(marker) is None
        with pytest.raises(ProviderError):
            publisher.read_back(post.url)

    def test_pictures_are_stored_once(self, publisher: Publisher, marker: str) -> None:
        add_images = _capability(publisher, "add_images")
        images = [Image(f"{marker}.png", "image/png", _PNG, "a grey dot")]
        urls = list(add_images(marker, images))
        assert len(urls) == 1
        assert urls[0].startswith(("http://", "https://"))
        assert list(add_images(marker, images)) == urls


def draft(title: str) -> Draft:
    """A draft with all Markdown elements that a target may change."""
    return Draft("contract", title, TRIAL_BODY, ("onelane",), "pending_publish", 1)


def opened(site: ContractSite, clients: PublisherClients) -> Publisher:
    """The publisher for the suite's target."""
    made = site.publisher(Target(site.publisher.name, site.base_url, site.options), clients)
    assert isinstance(made.settle_seconds, int | float), "settle_seconds must be a number of seconds"
    assert isinstance(made.find_is_reliable, bool), "find_is_reliable must be True or False"
    return made


def _capability(publisher: Publisher, name: str) -> Callable[..., Any]:
    if name not in capabilities(publisher):
        pytest.skip(f"{publisher.name} has no {name}")
    method: Callable[..., Any] = getattr(publisher, name)
    return method


class _Settings:
    """The port of the suite: it answers only the settings of clients."""

    def __init__(self, site: ContractSite) -> None:
        self._site = site

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        assert name == "client.settings", f"a publisher called {name!r}; it reaches its target and nothing else"
        hosts = list(self._site.allowed_hosts)
        if payload["name"] == "http":
            return {"allowed_hosts": hosts}
        assert self._site.chromium is not None, "this publisher needs a browser: set `chromium` of the ContractSite"
        return {"executable": self._site.chromium, "allowed_hosts": hosts, "headless": True}

    def send(self, name: str, payload: dict[str, Any]) -> None:
        raise AssertionError(f"a publisher sent {name!r}; it reaches its target and nothing else")
