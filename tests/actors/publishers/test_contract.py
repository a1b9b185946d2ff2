"""One contract for every publisher, through `publish_draft` and a real browser, against real sites.

The sites are the demo blog and a WordPress. Naver is not here: nothing of it can be reached from a test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route

from actors.clients.browser import Browser
from actors.clients.publishers import open_publisher, wordpress_scripts
from actors.clients.publishers.base import Post, PublisherClients
from actors.errors import LoginRequired, ProviderError, PublishFailed, PublishRefused, StepError
from actors.markdown import comparable, plain_text, render
from actors.port import Credentials, SessionState, Target
from actors.publishing import publish_draft
from actors.signals import Retry, Snooze
from actors.testing import MemoryPort
from tests.actors.publishers.demo_site import PASSWORD, DemoBlog
from tests.support.ports import make_context
from tests.support.wordpress import WordPressSite

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240), pytest.mark.usefixtures("lent_browser")]

#: `make test` runs the tests of `sample` with WordPress, `make test-all` all.
WORDPRESS = [pytest.mark.wordpress, pytest.mark.slow, pytest.mark.campaign]

BODY = """\
## Why lanes

Each *account* has **its own** -- and `code` too :) "It's 2x4..."

- one
- two
  - nested

> quoted, with an [address](https://example.com/?a=1&b=2)

| a | b |
|---|---|
| 1 | 2 |

```
if x < 1 && y: [gallery]
```

A [gallery] is no shortcode, and <b>raw</b> markup is text.

https://example.com/alone?a=1&b=2

1. first
2. second

한국어도 되고, emoji 🎉 too.
"""


#: Takes the focus from the password to the field before it, as WordPress' sign-in page may, so often in each page. One
#: fill of a field asks for the focus twice.
TAKE_FOCUS = """
    let left = %s;
    document.addEventListener("focusin", event => {
        if (event.target.type !== "password" || left-- <= 0) return;
        const other = event.target.form.querySelector("input:not([type=password]):not([type=hidden])");
        other.focus();
        other.select();
    });
"""


class Crash(BaseException):
    """The end of the process, as a step sees it."""


@dataclass
class Account:
    """A user of a site, as the tests see it: how to publish there, and what the site has of it."""

    publisher: str
    url: str
    username: str
    #: The states of all posts under a slug, drafts too, oldest first.
    states: Callable[[str], list[str]]
    end_sessions: Callable[[], None]
    other_user: str
    options: dict[str, Any] = field(default_factory=dict)

    def port(self, marker: str, **session: Any) -> MemoryPort:
        return MemoryPort(
            target={"publisher": self.publisher, "base_url": self.url, "options": self.options},
            draft={
                "id": "draft-1",
                "title": 'Own “lanes” & <queues>: "a" or 2x2?',
                "body": BODY,
                "tags": ["Queues", "R&D"],
                "status": "pending_publish",
                "version": 1,
            },
            marker=marker,
            **(session or {"credentials": {"username": self.username, "password": PASSWORD}}),
        )


@pytest.fixture(params=["demo", pytest.param("wordpress", marks=WORDPRESS)])
def account(request: pytest.FixtureRequest, name: str) -> Account:
    other = f"o-{name}"[:40]
    if request.param == "demo":
        blog: DemoBlog = request.getfixturevalue("demo_blog")
        for user in (name, other):
            blog.store.create_user(user, PASSWORD)
        return Account(
            "demo",
            blog.url,
            name,
            lambda marker: ["publish"] * len(blog.store.posts(marker=marker)),
            lambda: blog.store.end_sessions(name),
            other,
        )
    site: WordPressSite = request.getfixturevalue("wordpress")
    for user in (name, other):
        site.create_user(user, PASSWORD)
    return Account(
        "wordpress",
        site.url,
        name,
        lambda marker: [post["status"] for post in site.posts(marker)],
        lambda: site.end_sessions(name),
        other,
    )


@pytest.mark.sample
def test_publish_with_credentials_and_again_with_the_new_session(
    account: Account, name: str, clients: PublisherClients
) -> None:
    # Given an account with credentials and no session: it signs in, and the session is kept
    port = account.port(f"first-{name}")
    result = publish_draft(make_context(port))
    assert account.states(f"first-{name}") == ["publish"]
    assert result["url"].startswith(account.url)
    assert port.storage_state is not None
    assert port.session_expires_at is not None
    assert port.artifacts == {}
    # Then the publisher knows the post, and reads it as it was written
    publisher = open_publisher(Target(account.publisher, account.url, {}), clients)
    own = Credentials(account.username, PASSWORD)
    assert publisher.ensure_session(SessionState(port.storage_state, own)) is None
    assert publisher.find(f"first-{name}") == Post(result["url"], result["external_id"])
    assert publisher.find(f"never-{name}") is None
    public = publisher.read_back(result["url"])
    assert comparable(plain_text(render(BODY))) in comparable(public.text)
    assert port.draft is not None
    assert comparable(port.draft["title"]) in comparable(public.title)
    with pytest.raises(ProviderError):
        publisher.read_back(f"{account.url}/{account.username}/nothing-here/")
    # And a session of somebody else is not used, whatever it could do
    other = publisher.ensure_session(SessionState(port.storage_state, Credentials(account.other_user, PASSWORD)))
    assert other is not None
    assert other.storage_state != port.storage_state
    # When it publishes again with its session and no credentials, it need not sign in
    port = account.port(f"second-{name}", storage_state=port.storage_state)
    publish_draft(make_context(port))
    assert account.states(f"second-{name}") == ["publish"]
    assert "session.save" not in port.verbs()


@pytest.mark.sample
def test_a_crash_after_the_click_publishes_nothing_twice(account: Account, name: str) -> None:
    marker = f"crash-{name}"
    port = account.port(marker)
    port.fail["publication.confirmed"] = Crash()
    with pytest.raises(Crash):
        publish_draft(make_context(port))
    del port.fail["publication.confirmed"]
    result = publish_draft(make_context(port, attempt=2))
    assert account.states(marker) == ["publish"]
    assert marker in result["url"]
    assert port.verbs().count("publication.started") == 1


def test_a_crash_right_before_the_click_loses_nothing(account: Account, name: str) -> None:
    marker = f"early-{name}"
    port = account.port(marker)
    now = [0.0]
    port.now = lambda: now[0]

    def commit_and_crash() -> None:
        port.fail.clear()
        port.call("publication.started", {})
        raise Crash

    port.fail["publication.started"] = commit_and_crash
    with pytest.raises(Crash):
        publish_draft(make_context(port))
    assert "publish" not in account.states(marker)
    # The first look comes too early to be believed; the second one is believed.
    with pytest.raises(Snooze):
        publish_draft(make_context(port))
    now[0] += 60
    publish_draft(make_context(port))
    assert account.states(marker) == ["publish"]


def clocked_port(account: Account, marker: str) -> tuple[MemoryPort, list[float]]:
    """The port of an attempt whose clock stands where the list says, seconds."""
    port, now = account.port(marker), [0.0]
    port.now = lambda: now[0]
    return port, now


def until_published(port: MemoryPort, now: list[float]) -> dict[str, Any]:
    """Try again as the worker would, each time after the settling time; waits on the spot are over at once."""
    for attempt in range(1, 5):
        try:
            return publish_draft(make_context(port, attempt=attempt), pause=lambda seconds: None)
        except (Snooze, Retry, StepError):
            now[0] += 120
    pytest.fail(f"it is not published: {port.verbs()}")


@pytest.mark.parametrize("arrives", [True, False], ids=["the answer is lost", "the request is lost"])
def test_a_connection_that_breaks_during_the_click_publishes_once(
    account: Account, name: str, lent_browser: Browser, arrives: bool
) -> None:
    marker = f"during-{name}"
    port, now = clocked_port(account, marker)
    broken: list[str] = []

    def end(route: Route) -> None:
        """What the page sends from the click on gets to the site, or nowhere; the page receives no answer."""
        if route.request.method == "GET":
            route.fallback()
            return
        broken.append(route.request.url)
        if arrives:
            route.fetch(max_redirects=0)
        route.abort()

    def break_from_now_on() -> None:
        port.fail.clear()
        for context in lent_browser.contexts:
            context.route("**/*", end)

    port.fail["publication.started"] = break_from_now_on
    result = until_published(port, now)
    assert broken
    assert account.states(marker) == ["publish"]
    assert marker in result["url"]
    assert port.verbs().count("publication.started") == (1 if arrives else 2)


@pytest.mark.parametrize("fault", [Crash(), ProviderError("503")], ids=["crash", "error"])
def test_a_fault_at_read_back_publishes_nothing_twice(
    account: Account, name: str, clients: PublisherClients, fault: BaseException
) -> None:
    marker = f"readback-{name}"
    port, now = clocked_port(account, marker)

    def broken(self: Any, url: str) -> Any:
        raise fault

    publisher = type(open_publisher(Target(account.publisher, account.url, {}), clients))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "read_back", broken)
        with pytest.raises(type(fault)):
            publish_draft(make_context(port), pause=lambda seconds: None)
    assert port.publication is not None
    assert port.publication["status"] == "started", "what nobody has read back is not published"
    until_published(port, now)
    assert port.publication["status"] == "confirmed"
    assert account.states(marker) == ["publish"]
    assert port.verbs().count("publication.started") == 1


def test_a_dead_session_is_renewed_with_credentials_and_reported_without(
    account: Account, name: str, clients: PublisherClients
) -> None:
    publisher = open_publisher(Target(account.publisher, account.url, {}), clients)
    signed_in = publisher.ensure_session(SessionState(None, Credentials(account.username, PASSWORD)))
    assert signed_in is not None
    account.end_sessions()
    # Without credentials a person is needed
    port = account.port(name, storage_state=signed_in.storage_state)
    with pytest.raises(LoginRequired, match="no credentials"):
        publish_draft(make_context(port))
    assert len(port.login_required) == 1
    assert port.artifacts["publish-failure.png"][1].startswith(b"\x89PNG")
    # With them it signs in again
    port.credentials = {"username": account.username, "password": PASSWORD}
    publish_draft(make_context(port))
    assert account.states(name) == ["publish"]
    assert port.storage_state != signed_in.storage_state


@pytest.mark.parametrize(
    "session",
    [
        {"credentials": {"username": "", "password": "not the password"}},
        {"storage_state": None},
        {"storage_state": {"cookies": [], "origins": []}},
        {"storage_state": {"cookies": "nonsense"}},
    ],
    ids=["wrong password", "nothing", "empty state", "broken state"],
)
def test_a_failed_sign_in_is_reported_and_nothing_is_posted(
    account: Account, name: str, session: dict[str, Any]
) -> None:
    if session.get("credentials"):
        session = {"credentials": {**session["credentials"], "username": account.username}}
    port = account.port(name, **session)
    with pytest.raises(LoginRequired) as refused:
        publish_draft(make_context(port))
    assert "not the password" not in str(refused.value)
    assert port.login_required == [str(refused.value)]
    assert account.states(name) == []
    assert port.publication is not None
    assert port.publication["status"] == "intent"


@pytest.mark.parametrize("times", ["2", "Infinity"])
def test_a_page_that_takes_the_focus_away_gets_no_field_s_text_into_another(
    account: Account, name: str, lent_browser: Browser, monkeypatch: pytest.MonkeyPatch, times: str
) -> None:
    def restless(*arguments: Any, **options: Any) -> BrowserContext:
        context = Browser.context(lent_browser, *arguments, **options)
        context.add_init_script(TAKE_FOCUS % times)
        return context

    monkeypatch.setattr(lent_browser, "context", restless)
    port = account.port(name)
    if times == "2":
        publish_draft(make_context(port))
        assert account.states(name) == ["publish"]
    else:
        # A person who signs in would not help: the account is not paused, and the step is tried again
        with pytest.raises(ProviderError, match="does not keep what is written"):
            publish_draft(make_context(port))
        assert account.states(name) == []
    assert port.login_required == []


def test_a_site_that_is_something_else_is_not_mistaken(account: Account, name: str) -> None:
    port = account.port(name)
    assert port.target is not None
    port.target["base_url"] = account.url + "/nowhere"
    with pytest.raises(ProviderError):
        publish_draft(make_context(port))
    assert account.states(name) == []


@pytest.mark.wordpress
@pytest.mark.slow
@pytest.mark.campaign
class TestWordPress:
    """What only WordPress has: roles, categories, the welcome guide, drafts."""

    def port(self, site: WordPressSite, user: str, marker: str, **options: Any) -> MemoryPort:
        return MemoryPort(
            target={"publisher": "wordpress", "base_url": site.url, "options": options},
            draft={"id": "d", "title": "T", "body": "Some [text].", "tags": [], "status": "", "version": 1},
            credentials={"username": user, "password": PASSWORD},
            marker=marker,
        )

    def test_an_administrator_makes_missing_categories(self, wordpress: WordPressSite, name: str) -> None:
        wordpress.create_user(name, PASSWORD, "administrator")
        port = self.port(wordpress, name, name, categories=["R&D", "uncategorized"], tags=["x y"])
        publish_draft(make_context(port))
        (post,) = wordpress.posts(name)
        assert post["status"] == "publish"
        assert "&#091;text]" in post["content"].replace("&#91;", "&#091;")
        assert wordpress.terms(post["id"]) == ["R&amp;D", "Uncategorized", "x y"]

    def test_an_author_cannot_make_categories_and_is_refused(self, wordpress: WordPressSite, name: str) -> None:
        wordpress.create_user(name, PASSWORD)
        port = self.port(wordpress, name, name, categories=["Brand new"])
        with pytest.raises(PublishFailed, match="Brand new"):
            publish_draft(make_context(port))
        assert wordpress.posts(name) == []

    @pytest.mark.parametrize("role", ["contributor", "subscriber"])
    def test_a_user_who_may_not_publish_is_refused(self, wordpress: WordPressSite, name: str, role: str) -> None:
        wordpress.create_user(name, PASSWORD, role)
        port = self.port(wordpress, name, name)
        with pytest.raises((PublishFailed, ProviderError), match="may"):
            publish_draft(make_context(port))
        assert wordpress.posts(name) == []
        assert "publication.started" not in port.verbs()

    @pytest.mark.parametrize("signed_in", [False, True])
    def test_another_name_of_the_site_is_named_with_the_right_one(
        self, wordpress: WordPressSite, name: str, signed_in: bool, lent_browser: Browser
    ) -> None:
        wordpress.create_user(name, PASSWORD)
        port = self.port(wordpress, name, name)
        if signed_in:
            publish_draft(make_context(port))
            port.publication, port.credentials = None, None
        assert port.target is not None
        port.target["base_url"] = wordpress.url.replace("127.0.0.1", "localhost")
        with pytest.raises(PublishRefused, match=f"own address is {wordpress.url}: set base_url"):
            publish_draft(make_context(port))
        assert port.login_required == []

    def test_a_name_that_redirects_to_the_site_is_named_too(self, wordpress: WordPressSite, name: str) -> None:
        class ToTheSite(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(301)
                self.send_header("Location", wordpress.url + self.path)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing of it belongs into the tests' output."""

        wordpress.create_user(name, PASSWORD)
        port = self.port(wordpress, name, name)
        assert port.target is not None
        with ThreadingHTTPServer(("127.0.0.1", 0), ToTheSite) as other:
            threading.Thread(target=other.serve_forever, daemon=True).start()
            port.target["base_url"] = f"http://127.0.0.1:{other.server_port}"
            with pytest.raises(PublishRefused, match=f"own address is {wordpress.url}: set base_url"):
                publish_draft(make_context(port))
            other.shutdown()
        assert port.login_required == []

    def test_alignment_and_tasks_survive(self, wordpress: WordPressSite, name: str) -> None:
        wordpress.create_user(name, PASSWORD)
        port = self.port(wordpress, name, name)
        assert port.draft is not None
        port.draft["body"] = "| a | b |\n|:-:|--:|\n| 1 | 2 |\n\n- [x] done\n- [ ] open"
        publish_draft(make_context(port))
        (post,) = wordpress.posts(name)
        assert post["content"].count('data-align="right"') == 2
        assert post["content"].count('data-align="center"') == 2
        assert "☑ done" in post["content"]
        assert "☐ open" in post["content"]

    @pytest.mark.parametrize("moment", ["the editor is open", "the draft is saved"])
    def test_a_session_that_ends_in_mid_edit_publishes_once(
        self, wordpress: WordPressSite, name: str, moment: str
    ) -> None:
        # Given a session that was checked and ends before the click
        wordpress.create_user(name, PASSWORD)
        port, seen, patch = self.port(wordpress, name, name), [], pytest.MonkeyPatch()

        def end_session(page: Page | None = None) -> None:
            port.fail.clear()
            patch.undo()
            seen.append([post["status"] for post in wordpress.posts(name)])
            assert port.verbs().count("session.load") == 1, "it was checked before"
            wordpress.end_sessions(name)

        if moment == "the draft is saved":
            port.fail["publication.started"] = end_session
        else:
            evaluate = Page.evaluate

            def end_session_first(page: Page, script: str, *values: Any) -> Any:
                if script == wordpress_scripts.GUIDE_IS_DUE:  # the first script after the editor is open
                    end_session()
                return evaluate(page, script, *values)

            patch.setattr(Page, "evaluate", end_session_first)
        # When it goes on, and is tried again where the click got nothing through
        now = [0.0]
        port.now = lambda: now[0]
        until_published(port, now)
        # Then the moment was the one that was meant, and there is one post
        assert seen == [["draft"] if moment == "the draft is saved" else []]
        assert [post["status"] for post in wordpress.posts(name)] == ["publish"]
        assert port.verbs().count("session.load") > 1

    @pytest.mark.parametrize("cause", ["contributor", "classic editor", "missing category"])
    def test_what_only_a_person_can_change_takes_one_attempt(
        self, wordpress: WordPressSite, name: str, cause: str
    ) -> None:
        wordpress.create_user(name, PASSWORD, "contributor" if cause == "contributor" else "author")
        options = {"categories": ["No such thing"]} if cause == "missing category" else {}
        port = self.port(wordpress, name, name, **options)
        with wordpress.classic_editor(cause == "classic editor"), pytest.raises(PublishRefused) as refused:
            publish_draft(make_context(port))
        assert refused.value.permanent
        assert "publication.started" not in port.verbs()
        assert wordpress.posts(name) == []

    @pytest.mark.parametrize("options", [{"categories": 3}, {"categories": [1]}, {"admin_path": ["x"]}])
    def test_wrong_options_are_named(self, options: dict[str, Any]) -> None:
        with pytest.raises(PublishFailed, match=next(iter(options))):
            open_publisher(Target("wordpress", "https://x.example", options), None)  # type: ignore[arg-type]
