"""Once only: an attempt may die or fail at any call, any number of times, and the site has one post in the end.

The site is a model with a clock; see `model_site`.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from actors.clients.publishers import BUILT_IN, UnknownPublisher, open_publisher
from actors.clients.publishers.base import PublicPost
from actors.errors import (
    LoginRequired,
    OutcomeUnknown,
    OwnershipLost,
    ProviderError,
    PublishFailed,
    PublishRefused,
    ReadbackMismatch,
    StepError,
)
from actors.port import Draft, Target
from actors.publishing import find_difference, publish_draft
from actors.signals import Reject, Retry, Snooze
from actors.testing import MemoryPort
from tests.actors.publishers.model_site import DRAFT, STATE, Clock, Crash, NoBrowser, Site, attempt, drive, port_to
from tests.actors.publishers.model_site import clock as clock
from tests.actors.publishers.model_site import site as site
from tests.support.ports import make_context


def count_moments(site: Site, port: MemoryPort) -> int:
    drive(site, port)
    return site.bombs.passed


def test_a_draft_is_published_read_back_and_confirmed(site: Site) -> None:
    port = port_to(site)
    assert attempt(site, port) == {
        "url": "https://site.example/post-0001",
        "external_id": "1",
        "publisher": "model",
        "title": "Lanes",
        "draft_id": "draft-1",
    }
    ledger = [verb for verb in port.verbs() if verb.startswith("publication.")]
    assert ledger == ["publication.open", "publication.started", "publication.confirmed"]
    assert [percent for percent, _ in port.progress] == [5, 15, 40, 60, 85, 100]


def test_a_confirmed_draft_is_not_touched_again(site: Site) -> None:
    port = port_to(site)
    first = attempt(site, port)
    moments = site.bombs.passed
    assert attempt(site, port) == first
    assert len(site.posts) == 1
    # No browser, no session, no publisher: target, draft and ledger were read, and that was all.
    assert port.verbs()[-3:] == ["target.load", "draft.load", "publication.open"]
    assert site.bombs.passed == moments + 6


@pytest.mark.parametrize("late", [0.0, 4.9], ids=lambda late: f"post appears {late} s late")
@pytest.mark.parametrize("kind", [Crash, OSError], ids=["crash", "error"])
def test_whatever_two_moments_it_dies_at_there_is_one_post(
    clock: Clock, site: Site, kind: type[BaseException], late: float
) -> None:
    # Given as many moments as a run has, and some more for the runs that repair it
    site.late = late
    moments = count_moments(site, port_to(site)) + 25
    for first, second in itertools.combinations(range(1, moments), 2):
        site.posts.clear()
        site.bombs.at, site.bombs.passed = {first: kind, second: kind}, 0
        port = port_to(site)
        # When it dies at both and is tried again until it is through
        drive(site, port)
        # Then nothing is lost and nothing is doubled
        assert len(site.posts) == 1, f"died at {first} and {second}: {port.verbs()}"
        assert port.publication is not None
        assert port.publication["status"] == "confirmed"


def test_a_site_that_may_not_show_everything_gets_no_second_post(clock: Clock, site: Site) -> None:
    site.reliable = False
    moments = count_moments(site, port_to(site))
    unknown = 0
    for moment in range(1, moments + 1):
        site.posts.clear()
        site.bombs.at, site.bombs.passed = {moment: Crash}, 0
        port = port_to(site)
        try:
            drive(site, port)
        except OutcomeUnknown:
            unknown += 1
            assert port.publication is not None
            assert port.publication["status"] == "unknown"
        assert len(site.posts) <= 1
    # Only between `started` in the ledger and the post itself the outcome is unknown.
    assert 0 < unknown <= 3


def test_a_second_try_waits_for_the_first_and_spends_no_attempt(clock: Clock, site: Site) -> None:
    port = port_to(site)
    port.call("publication.open", {"publisher": "model", "base_url": "https://site.example"})
    port.call("publication.started", {})
    clock.sleep(2.0)
    with pytest.raises(Snooze) as waiting:
        attempt(site, port)
    assert 2.0 < (waiting.value.until - datetime.now(UTC)).total_seconds() <= 3.0
    assert "publication.absent" not in port.verbs()
    clock.sleep(3.1)
    attempt(site, port)
    assert port.verbs().count("publication.started") == 2
    assert len(site.posts) == 1


@pytest.mark.parametrize("status", ["started", "unknown"])
def test_a_post_of_an_earlier_try_is_confirmed_at_once(clock: Clock, site: Site, status: str) -> None:
    port = port_to(site)
    port.call("publication.open", {"publisher": "model", "base_url": "https://site.example"})
    port.call("publication.started", {})
    if status == "unknown":
        port.call("publication.unknown", {"reason": "a person should look"})
    site.posts.append((0.0, port.marker, Draft.from_wire(DRAFT)))
    attempt(site, port)
    assert port.publication is not None
    assert port.publication["status"] == "confirmed"
    assert len(site.posts) == 1


def test_a_failed_submit_whose_post_is_there_is_a_success(site: Site) -> None:
    site.after_submit = [ProviderError("500")]
    port = port_to(site)
    assert attempt(site, port)["url"] == "https://site.example/post-0001"
    assert len(site.posts) == 1
    assert port.artifacts == {"publish-failure.png": ("image/png", b"PNG")}
    assert port.logs[0][0] == "warning"


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ProviderError("500"), ProviderError),
        (OSError("gone"), PublishFailed),
        (LoginRequired("ended as it was sent"), PublishFailed),
        (PublishFailed("sure"), PublishFailed),
    ],
)
def test_a_failed_submit_says_that_nothing_is_there_only_after_asking(
    site: Site, monkeypatch: pytest.MonkeyPatch, failure: Exception, expected: type[Exception]
) -> None:
    port = port_to(site)
    site.after_submit = [failure]
    monkeypatch.setattr(Site, "visible", lambda self, marker: [])
    before = site.clock()
    with pytest.raises(expected) as failed:
        attempt(site, port)
    assert isinstance(failed.value, StepError)
    assert not failed.value.permanent
    assert site.clock() - before >= 5.0
    assert port.verbs()[-2:] == ["publication.absent", "artifact.save"] or port.verbs()[-1] == "publication.absent"


def test_a_picture_that_cannot_be_kept_hides_nothing(site: Site) -> None:
    site.after_submit = [ProviderError("500")]
    port = port_to(site)
    port.fail["artifact.save"] = OSError("disk full")
    attempt(site, port)
    assert len(site.posts) == 1
    assert port.publication is not None
    assert port.publication["status"] == "confirmed"


def test_with_too_little_time_to_settle_the_next_attempt_looks(site: Site) -> None:
    site.after_submit = [ProviderError("500")]
    port = port_to(site)
    with pytest.raises(Retry) as again:
        publish_draft(make_context(port, seconds=20), pause=site.clock.sleep)
    assert again.value.after == 5.0
    assert port.publication is not None
    assert port.publication["status"] == "started"
    drive(site, port)
    assert len(site.posts) == 1


def test_with_no_time_left_nothing_is_begun(site: Site) -> None:
    port = port_to(site)
    with pytest.raises(PublishFailed, match="left"):
        publish_draft(make_context(port, seconds=3), pause=site.clock.sleep)
    assert "publication.started" not in port.verbs()
    assert site.posts == []


def test_an_attempt_that_lost_its_step_stops_at_the_fence(site: Site) -> None:
    port = port_to(site)

    def lose() -> None:
        port.owned = False

    port.fail["publication.started"] = lose
    with pytest.raises(OwnershipLost):
        attempt(site, port)
    assert site.posts == []
    assert "artifact.save" not in port.verbs()


def test_a_post_with_other_content_needs_a_person(site: Site) -> None:
    site.text = "Home. Share this."
    port = port_to(site)
    with pytest.raises(ReadbackMismatch, match="letters and digits"):
        attempt(site, port)
    assert port.publication is not None
    assert port.publication["status"] == "unknown"


def test_a_page_that_is_not_there_yet_is_read_again(site: Site) -> None:
    site.reads_to_fail = 2
    port = port_to(site)
    attempt(site, port)
    assert len(site.posts) == 1


def test_a_page_that_stays_away_leaves_the_post_for_the_next_attempt(site: Site) -> None:
    site.reads_to_fail = 3
    port = port_to(site)
    with pytest.raises(ProviderError):
        attempt(site, port)
    attempt(site, port)
    assert len(site.posts) == 1


def test_a_session_that_is_over_is_renewed_and_kept(site: Site) -> None:
    site.session_is_alive = False
    port = port_to(site)
    attempt(site, port)
    assert port.storage_state == STATE
    assert port.session_expires_at == "2096-10-02T07:06:40+00:00"


def test_a_session_that_nobody_can_renew_is_reported(site: Site) -> None:
    site.session_is_alive = False
    port = port_to(site)
    port.credentials = None
    with pytest.raises(LoginRequired):
        attempt(site, port)
    assert port.login_required == ["no credentials"]
    assert "publication.started" not in port.verbs()


def test_a_session_that_ends_before_the_editor_opens_is_renewed_once(site: Site) -> None:
    site.before_publish = [LoginRequired("over")]
    attempt(site, port_to(site))
    assert len(site.posts) == 1
    site.before_publish = [LoginRequired("over"), LoginRequired("over again")]
    with pytest.raises(LoginRequired, match="again"):
        attempt(site, port_to(site))


@pytest.mark.parametrize(
    ("publisher", "base_url"), [("elsewhere", "https://site.example"), ("model", "https://elsewhere")]
)
def test_a_target_changed_after_the_start_needs_a_person(site: Site, publisher: str, base_url: str) -> None:
    port = port_to(site)
    port.call("publication.open", {"publisher": publisher, "base_url": base_url})
    port.call("publication.started", {})
    with pytest.raises(OutcomeUnknown, match="elsewhere"):
        attempt(site, port)
    assert site.posts == []


def test_without_a_target_there_is_nothing_to_try_again(site: Site) -> None:
    port = port_to(site)
    port.target = None
    with pytest.raises(Reject, match="no target"):
        attempt(site, port)


def test_an_unknown_publisher_names_those_there_are() -> None:
    with pytest.raises(UnknownPublisher) as refused:
        open_publisher(Target("blogger", "https://x.example", {}), NoBrowser())  # type: ignore[arg-type]
    assert all(name in str(refused.value) for name in ("blogger", *BUILT_IN))
    assert refused.value.permanent


def test_a_draft_that_was_escaped_once_too_often_is_not_published(site: Site) -> None:
    for body in ("Each account.\\n\\nIts own.", "It\\u2019s one.\nTwo.", "One line\\nand another"):
        port = port_to(site)
        assert port.draft is not None
        port.draft["body"] = body
        with pytest.raises(PublishRefused, match="edit the draft"):
            attempt(site, port)
        assert "publication.started" not in port.verbs()
    assert site.posts == []


def test_a_page_is_compared_with_what_was_meant_and_not_with_a_broken_draft() -> None:
    broken = Draft.from_wire({**DRAFT, "body": "Each account.\\n\\nIt\\u2019s own."})
    assert "text" in str(find_difference(broken, PublicPost("Lanes", "Each account.\\n\\nIt\\u2019s own.")))
    assert find_difference(broken, PublicPost("Lanes", "Each account. It’s own.")) is None


def test_a_difference_says_where_it_is() -> None:
    draft = Draft.from_wire(DRAFT)
    assert find_difference(draft, PublicPost("Lanes – my blog", "Each account has its own.")) is None
    assert "title" in str(find_difference(draft, PublicPost("Hello", "Each account has its own.")))
    assert "text" in str(find_difference(draft, PublicPost("Lanes", "")))
