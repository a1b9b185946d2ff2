"""Publishes a draft at most once, whatever crashes: the order of calls to a `Publisher` and the publication ledger.

    intent ──before_submit──▶ started ──read back, same content──▶ confirmed
      ▲                          │
      └── absent ◀── searched after the settling time ──▶ unknown (the target cannot say)

Invariants
- ``started`` is committed before the irreversible request is sent. An attempt that reads it first searches for the post
  (`find`), and "not found" counts only after the settling time: a killed browser's request may still take effect.
- After ``started`` a failure says that nothing was published only if the target has said so.
- A post counts as published when its public page was read and has the draft's title and text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .clients.publishers import open_publisher
from .clients.publishers.base import Post, PublicPost, Publisher, PublisherClients
from .context import StepContext
from .errors import (
    LoginRequired,
    OutcomeUnknown,
    OwnershipLost,
    ProviderError,
    PublishFailed,
    PublishRefused,
    ReadbackMismatch,
    StepError,
)
from .escapes import looks_escaped, unescaped, unescaped_title
from .markdown import comparable, plain_text, render
from .port import Draft, Publication
from .signals import Reject, Retry, Signal, Snooze

_log = logging.getLogger(__name__)

#: After a failed submit, the step itself waits for settling times up to this; for longer ones it is retried.
MAX_WAIT_SECONDS = 15.0
#: Reserved for finding a post and reading it back.
LOOK_SECONDS = 30.0
#: With less remaining time than this, no irreversible request is sent.
LEAST_SUBMIT_SECONDS = 5.0
#: Pauses before each try to read a public page, which may not be there yet.
READ_PAUSES_SECONDS = (0.0, 1.0, 3.0)


def publish_draft(ctx: StepContext[Any], *, pause: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Publish the job's draft at the account's target.

    Returns `{url, external_id, publisher, title, draft_id}`.

    Raises:
        Reject: the account has no target.
        LoginRequired, PublishFailed, ReadbackMismatch, OutcomeUnknown, ProviderError: see `actors.errors`.
        Snooze: an earlier attempt has not settled yet. Retry: it failed, and the next attempt must search first.
    """
    target = ctx.target
    if target is None:
        raise Reject(f"account {ctx.account!r} has no target: set where it publishes", code="publish_failed")
    draft = ctx.drafts.load()
    entry = ctx.publication.open(target)
    if entry.status == "confirmed":
        return _output(draft, entry.publisher, entry.url, entry.external_id)
    if entry.status != "intent" and (entry.publisher, entry.base_url) != (target.publisher, target.base_url):
        reason = (
            f"it was started at {entry.publisher} {entry.base_url}, and the account's target is "
            f"{target.publisher} {target.base_url} now"
        )
        ctx.publication.unknown(reason)
        raise OutcomeUnknown(f"it cannot be determined whether draft {draft.id} was published: {reason}")
    if entry.status == "intent":
        _check_text(draft)
    ctx.progress(5, f"opening publisher {target.publisher}")
    with PublisherClients(ctx.clients) as clients:
        publisher = open_publisher(target, clients)
        evidence = _Evidence(ctx, clients)
        try:
            return PublishOnce(ctx, publisher, draft, entry, evidence.keep, pause).run()
        except (Snooze, OwnershipLost):
            raise
        except Exception:
            evidence.keep()
            raise


@dataclass
class PublishOnce:
    """One attempt at publishing one draft. `run` it once."""

    ctx: StepContext[Any]
    publisher: Publisher
    draft: Draft
    entry: Publication
    #: Called at a failure, before the page changes.
    keep_evidence: Callable[[], None] = lambda: None
    pause: Callable[[float], None] = time.sleep
    #: True if ``started`` may have been recorded in the ledger.
    _started: bool = field(default=False, init=False)

    def run(self) -> dict[str, Any]:
        self._sign_in()
        post = self._post_of_earlier_try() if self.entry.status in ("started", "unknown") else None
        if post is None:
            post = self._publish()
        return self._confirm(post)

    def _sign_in(self) -> None:
        self.ctx.progress(15, f"checking the session at {self.publisher.name}")
        try:
            renewed = self.publisher.ensure_session(self.ctx.session.load())
        except LoginRequired as error:
            self.ctx.session.login_required(str(error))
            raise
        if renewed is not None and renewed.storage_state is not None:
            self.ctx.session.save(renewed.storage_state, session_ends_at(renewed.storage_state))

    def _post_of_earlier_try(self) -> Post | None:
        """The post of an earlier attempt; None if there certainly is none."""
        self.ctx.progress(30, "looking for the post of an earlier try")
        post = self.publisher.find(self.entry.marker)
        if post is not None:
            self._started = True
            return post
        # The age was measured before the search, so a request that is old enough has been found.
        unsettled = self.publisher.settle_seconds - (self.entry.started_seconds_ago or 0.0)
        if unsettled > 0:
            raise Snooze(datetime.now(UTC) + timedelta(seconds=unsettled), "an earlier try may still come into effect")
        self._record_absent()
        return None

    def _record_absent(self) -> None:
        if self.publisher.find_is_reliable:
            self.ctx.publication.absent()
            return
        reason = f"{self.publisher.name} shows no post {self.entry.marker}, but it may not show everything"
        self.ctx.publication.unknown(reason)
        raise OutcomeUnknown(f"it cannot be determined whether draft {self.draft.id} was published: {reason}")

    def _publish(self, *, signed_in_again: bool = False) -> Post:
        self.ctx.progress(40, f"writing the post at {self.publisher.name}")
        try:
            post = self.publisher.publish(self.draft, self.entry.marker, self._before_submit)
        except OwnershipLost:
            raise
        except Exception as error:
            if self._started:
                return self._after_failed_submit(error)
            if isinstance(error, LoginRequired) and not signed_in_again:
                # The session ended between the check and the editor. No request was sent yet.
                self._sign_in()
                return self._publish(signed_in_again=True)
            raise
        if not self._started:  # the target already had the post, which is still to be confirmed
            self._started = True
            self.ctx.publication.started(self.draft)
        return post

    def _before_submit(self) -> None:
        left = self.ctx.remaining_seconds()
        if left < LEAST_SUBMIT_SECONDS:
            raise PublishFailed(f"only {left:.0f} s of the step are left: too few to publish and look at the result")
        self.ctx.progress(60, "publishing")
        self._started = True
        self.ctx.publication.started(self.draft)

    def _after_failed_submit(self, error: Exception) -> Post:
        """Search for the post after a failed submit. Returns it, or raises what is known."""
        self.keep_evidence()
        message = f"publishing failed after the request may have left: {error}"
        self.ctx.log.warning(message)
        settle = self.publisher.settle_seconds
        if settle > MAX_WAIT_SECONDS or self.ctx.remaining_seconds() < settle + LOOK_SECONDS:
            raise Retry(settle, f"it is not known yet what became of the post: {error}") from error
        self.ctx.progress(70, "looking for the post after a failure")
        self.pause(settle)
        try:
            self._sign_in()
            post = self.publisher.find(self.entry.marker)
        except OwnershipLost:
            raise
        except Exception as second:
            raise Retry(settle, f"publishing failed ({error}), and so did looking for the post: {second}") from error
        if post is not None:
            return post
        self._record_absent()
        if isinstance(error, Signal) or (isinstance(error, StepError) and not isinstance(error, LoginRequired)):
            raise error
        raise PublishFailed(f"{self.publisher.name} did not take the post: {error}") from error

    def _confirm(self, post: Post) -> dict[str, Any]:
        self.ctx.progress(85, f"reading {post.url} back")
        difference = find_difference(self.draft, read_back(self.publisher, post.url, self.pause))
        if difference:
            reason = f"the post at {post.url} is not the draft: {difference}"
            self.ctx.publication.unknown(reason)
            raise ReadbackMismatch(reason)
        self.ctx.publication.confirmed(post.url, post.external_id)
        self.ctx.progress(100, f"published at {post.url}")
        return _output(self.draft, self.publisher.name, post.url, post.external_id)


def read_back(publisher: Publisher, url: str, pause: Callable[[float], None]) -> PublicPost:
    """The public page, with retries while it is not there yet.

    Raises:
        ProviderError: it cannot be read.
    """
    failure: ProviderError | None = None
    for seconds in READ_PAUSES_SECONDS:
        pause(seconds)
        try:
            return publisher.read_back(url)
        except ProviderError as error:
            failure = error
    assert failure is not None, "READ_PAUSES_SECONDS has at least one entry"
    raise failure


def find_difference(draft: Draft, public: PublicPost) -> str | None:
    """How the public post differs from the draft, in one line; None if it has the whole title and text.

    Additions of a theme (share buttons, related posts) are ignored.
    """
    if comparable(unescaped_title(draft.title)) not in comparable(public.title):
        return f"its title is {public.title[:120]!r} and should be {draft.title[:120]!r}"
    # Decoded on the expected side: a wrongly escaped text would be equal on both sides.
    expected, found = comparable(plain_text(render(unescaped(draft.body)))), comparable(public.text)
    if expected not in found:
        return f"its text has {len(found)} letters and digits, and the draft's {len(expected)} are not all among them"
    return None


def _check_text(draft: Draft) -> None:
    """Refuse a draft whose text was escaped once too often, before it is public.

    Raises:
        PublishRefused: it was.
    """
    escape = looks_escaped(draft.title) or looks_escaped(draft.body)
    if escape or unescaped(draft.body) != draft.body:
        raise PublishRefused(
            f"draft {draft.id} has {escape or 'line feeds'!r} as characters in its text, where the text was escaped "
            "once too often; edit the draft, or put what is meant so between backticks, and retry the job"
        )


def session_ends_at(storage_state: dict[str, Any]) -> datetime | None:
    """When the session ends: the latest expiry of an HttpOnly cookie, which holds a session."""
    ends = [cookie["expires"] for cookie in storage_state.get("cookies", ()) if cookie.get("httpOnly")]
    latest = max(ends, default=-1)
    return datetime.fromtimestamp(latest, UTC) if latest > 0 else None


def _output(draft: Draft, publisher: str, url: str | None, external_id: str | None) -> dict[str, Any]:
    return {
        "url": url,
        "external_id": external_id,
        "publisher": publisher,
        "title": draft.title,
        "draft_id": draft.id,
    }


class _Evidence:
    """A screenshot at the attempt's first failure; later ones show less."""

    def __init__(self, ctx: StepContext[Any], clients: PublisherClients) -> None:
        self._ctx = ctx
        self._clients = clients
        self._kept = False

    def keep(self) -> None:
        if self._kept:
            return
        self._kept = True
        picture = self._clients.evidence()
        if picture is None:
            return
        try:
            self._ctx.artifact("publish-failure.png", "image/png", picture)
        except OwnershipLost:
            raise
        except Exception:  # the search for the post must continue
            _log.exception("the screenshot of the failure was not kept")
