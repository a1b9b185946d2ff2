"""The worker's end of a step's `Port`: answers the calls of one attempt, while it owns its step.

Invariants
- Account, job and run token come from the attempt that the worker started, never from the step: a step cannot name
  another account.
- A step gets only what its `@step` declares (`uses`).
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, insert, select

from actors.declarations import Declaration
from actors.errors import InvalidCall, ProviderError, StepError
from actors.port import MAX_ARTIFACT_BYTES
from tenants import webhooks
from tenants.database.columns import db_now
from tenants.database.models import Account, Artifact, Job, new_id
from tenants.errors import InvalidInput, OwnershipLost, Unavailable
from tenants.storable import storable_text
from tenants.store import attempt
from tenants.store.accounts import queues, usage
from tenants.store.attempt import OwnedAttempt
from tenants.store.dead_letters import alerts
from tenants.store.jobs import webhook_deliveries
from tenants.store.publishing import publications
from tenants.store.steps import provider_backoffs

from ..runtime import Runtime
from ..step_clients import client_settings, text_model_scope, text_model_settings
from .step_journal import StepJournal

log = logging.getLogger(__name__)
accounts, artifacts, jobs = Account.__table__, Artifact.__table__, Job.__table__

MAX_TITLE_CHARACTERS = 500
MAX_BODY_CHARACTERS = 500_000
MAX_TAGS = 50

P = ParamSpec("P")
T = TypeVar("T")

#: The call that a child makes before it enters the function of an irreversible step; see `isolation.child`.
ENTER = "step.enter"


class StepPort:
    """Serves one attempt. The errors of `call` have a `code`, and reach the step.

    Messages of `send` go to `journal`, which the caller closes when the attempt has ended.
    """

    def __init__(
        self,
        owned: OwnedAttempt,
        runtime: Runtime,
        journal: StepJournal,
        *,
        uses: Declaration,
        check_worker: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_worker` raises OwnershipLost if the worker's steps may already run elsewhere."""
        self._owned = owned
        #: Whether the function of an irreversible step may have been entered.
        self.entered = False
        #: Why that could not be recorded, so that the function was not entered.
        self.enter_failed: str | None = None
        self._runtime = runtime
        self._database = runtime.database
        self._settings = runtime.settings
        self._journal = journal
        self._uses = uses
        self._check_worker = check_worker
        self._messages: dict[str, Callable[[dict[str, Any]], None]] = {
            "log": self._log,
            "log.left_out": lambda payload: self._journal.leave_out(max(0, int(payload["count"]))),
            "progress": self._progress,
        }
        self._verbs: dict[str, Callable[[dict[str, Any]], Any]] = {
            ENTER: self._enter,
            "cancelled": self._cancelled,
            "artifact.save": self._save_artifact,
            "usage.add": self._add_usage,
            "client.settings": self._client_settings,
            "session.load": self._load_session,
            "session.save": self._save_session,
            "session.login_required": self._login_required,
            "target.load": self._load_target,
            "draft.create": self._create_draft,
            "draft.load": self._load_draft,
            "publication.open": self._open_publication,
            "publication.started": self._publication_started,
            "publication.absent": self._publication_absent,
            "publication.confirmed": self._publication_confirmed,
            "publication.unknown": self._publication_unknown,
            "callback.load": self._load_callback,
            "callback.answered": self._callback_answered,
        }

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        """Answer one call.

        Raises:
            InvalidCall: there is no such verb, or its payload is malformed or too large.
            NotDeclared: the step does not declare this call.
            OwnershipLost: another attempt owns the step.
        """
        verb = self._verbs.get(name)
        if verb is None:
            raise InvalidCall(f"a step called {name!r}, which is not one of {', '.join(sorted(self._verbs))}")
        self._check_worker()
        self._journal.flush()  # earlier log lines come first
        try:
            self._uses.check(f"{self._owned.pipeline}.{self._owned.name}", name, payload)
            return verb(payload)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCall(f"a step called {name!r} with a payload out of shape: {error!r}") from error

    def send(self, name: str, payload: dict[str, Any]) -> None:
        """Take a one-way message: a log line or progress.

        Raises:
            InvalidCall: there is no such message, or its payload is malformed.
            OwnershipLost: as `call`, or found when earlier messages were written.
        """
        self._check_worker()
        if self._journal.ownership_lost:
            raise self._owned.ownership_lost()
        take = self._messages.get(name)
        if take is None:
            raise InvalidCall(f"a step sent {name!r}, which is not one of {', '.join(sorted(self._messages))}")
        try:
            take(payload)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCall(f"a step sent {name!r} with a payload out of shape: {error!r}") from error

    def _write(
        self, statement: Callable[Concatenate[Connection, OwnedAttempt, P], T], *values: P.args, **named: P.kwargs
    ) -> T:
        """Run a statement for this attempt in a transaction of its own."""
        return self._database.write(lambda connection: statement(connection, self._owned, *values, **named))

    # --- messages ------------------------------------------------------------------------------------------------

    def _progress(self, payload: dict[str, Any]) -> None:
        percent, note = int(payload["percent"]), storable_text(str(payload.get("note", "")))[:200]
        self._journal.set_progress(max(0, min(100, percent)), note)

    def _log(self, payload: dict[str, Any]) -> None:
        level, message = str(payload["level"])[:20], storable_text(str(payload["message"]))[:4000]
        owned = self._owned
        log.log(
            logging.getLevelNamesMapping().get(level.upper(), logging.INFO),
            "%s.%s of job %s: %s",
            owned.pipeline,
            owned.name,
            owned.job_id,
            message,
        )
        self._journal.add_line(level, message)

    def _enter(self, payload: dict[str, Any]) -> None:
        try:
            self._write(attempt.enter)
        except Unavailable as error:
            self.enter_failed = str(error)
            raise
        self.entered = True

    # --- calls of every step -------------------------------------------------------------------------------------

    def _cancelled(self, payload: dict[str, Any]) -> bool:
        statement = select(jobs.c.cancel_requested_at.is_not(None)).where(jobs.c.id == self._owned.job_id)
        return bool(self._database.read(lambda connection: connection.execute(statement).scalar_one()))

    def _save_artifact(self, payload: dict[str, Any]) -> None:
        try:
            content = base64.b64decode(payload["data"], validate=True)
        except binascii.Error as error:
            raise InvalidCall(f"an artifact's data must be base64: {error}") from error
        if len(content) > MAX_ARTIFACT_BYTES:
            raise InvalidCall(f"an artifact has {len(content)} bytes; at most {MAX_ARTIFACT_BYTES} are kept")
        owned, artifact_id = self._owned, new_id()
        path = self._settings.data_dir / "artifacts" / artifact_id[:8] / artifact_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        row = {
            "id": artifact_id,
            "account": owned.account,
            "job_id": owned.job_id,
            "step_id": owned.step_id,
            "run_token": owned.run_token,
            "name": storable_text(str(payload["name"]))[:100],
            "content_type": storable_text(str(payload["content_type"]))[:100],
            "size": len(content),
            "path": str(Path("artifacts") / artifact_id[:8] / artifact_id),
        }

        def work(connection: Connection) -> None:
            attempt.still_there(connection, owned)
            connection.execute(insert(artifacts).values(created_at=db_now(), **row))
            usage.add(connection, owned.account, bytes=len(content))

        try:
            self._database.write(work)
        except OwnershipLost:
            path.unlink(missing_ok=True)
            raise

    def _add_usage(self, payload: dict[str, Any]) -> None:
        tokens = int(payload.get("tokens_in", 0)) + int(payload.get("tokens_out", 0))

        def work(connection: Connection) -> None:
            attempt.still_there(connection, self._owned)
            usage.add(connection, self._owned.account, tokens=tokens)
            provider_backoffs.accepted(connection, text_model_scope(self._settings))

        if tokens > 0:
            self._database.write(work)

    # --- clients -------------------------------------------------------------------------------------------------

    def _client_settings(self, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["name"] == "text_model":
            scope = text_model_scope(self._settings)
            busy = self._database.read(lambda connection: provider_backoffs.rest_seconds(connection, scope))
            return {**text_model_settings(self._settings), "busy_seconds": busy}
        try:
            return client_settings(self._settings, str(payload["name"]))
        except InvalidInput as error:  # another worker may have a browser
            raise ProviderError(str(error)) from None

    # --- session and target --------------------------------------------------------------------------------------

    def _load_session(self, payload: dict[str, Any]) -> dict[str, Any]:
        session = self._runtime.sessions.load(self._owned.account)
        if session is None:
            return {"storage_state": None, "credentials": None}
        return {"storage_state": session.storage_state, "credentials": session.credentials}

    def _save_session(self, payload: dict[str, Any]) -> None:
        state = payload["storage_state"]
        if not isinstance(state, dict):
            raise InvalidCall("a storage state must be an object, as Playwright gives it")
        expires = payload.get("expires_at")
        expires_at = datetime.fromisoformat(expires) if expires else None

        def work(connection: Connection) -> None:
            attempt.still_owned(connection, self._owned)
            self._runtime.sessions.save(connection, self._owned.account, storage_state=state, expires_at=expires_at)

        self._database.write(work)

    def _login_required(self, payload: dict[str, Any]) -> None:
        """Record it, and pause the account's lane: its other jobs would fail in the same way."""
        owned, reason = self._owned, storable_text(str(payload["reason"]))[:500]

        def work(connection: Connection) -> None:
            attempt.still_owned(connection, owned)
            self._runtime.sessions.require_login(connection, owned.account, reason)
            queues.pause_for_login(connection, owned.lane, owned.account)
            details = {"lane": owned.lane, "pipeline": owned.pipeline, "step": owned.name, "job_id": owned.job_id}
            alerts.raise_alert(
                connection, "login_required", account=owned.account, subject=(), details=details, once_per_job=True
            )

        self._database.write(work)
        self._runtime.settings_sync.sync_account(owned.account)

    def _load_target(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        statement = select(accounts.c.target).where(accounts.c.id == self._owned.account)
        found: dict[str, Any] | None = self._database.read(
            lambda connection: connection.execute(statement).scalar_one_or_none()
        )
        if found is None:
            return None
        # The step's process has no settings, so it cannot look up the class itself.
        known = self._runtime.publishers.get(found["publisher"])
        return {**found, "implementation": known.reference if known is not None else None}

    # --- draft and ledger ----------------------------------------------------------------------------------------

    def _create_draft(self, payload: dict[str, Any]) -> dict[str, Any]:
        title, body, tags = str(payload["title"]), str(payload["body"]), [str(tag) for tag in payload["tags"]]
        if not title.strip() or not body.strip():
            raise StepError("a draft needs a title and a body")
        if len(title) > MAX_TITLE_CHARACTERS or len(body) > MAX_BODY_CHARACTERS or len(tags) > MAX_TAGS:
            raise StepError(
                f"a draft has at most {MAX_TITLE_CHARACTERS} characters of title, {MAX_BODY_CHARACTERS} of body and "
                f"{MAX_TAGS} tags"
            )
        row = self._write(
            publications.create_draft,
            title=storable_text(title),
            body=storable_text(body),
            tags=[storable_text(tag) for tag in tags],
        )
        return _draft_view(row)

    def _load_draft(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        row = self._database.read(lambda connection: publications.load_draft_for_step(connection, self._owned))
        return None if row is None else _draft_view(row)

    def _open_publication(self, payload: dict[str, Any]) -> dict[str, Any]:
        publisher, base_url = str(payload["publisher"]), str(payload["base_url"])
        entry = self._write(publications.open_entry, publisher=publisher, base_url=base_url)
        names = ("id", "marker", "status", "publisher", "base_url", "url", "external_id", "started_seconds_ago")
        return {name: entry[name] for name in names}

    def _publication_started(self, payload: dict[str, Any]) -> None:
        self._write(publications.started, int(payload["version"]))

    def _publication_absent(self, payload: dict[str, Any]) -> None:
        self._write(publications.absent)

    def _publication_confirmed(self, payload: dict[str, Any]) -> None:
        self._write(publications.confirmed, url=str(payload["url"]), external_id=payload.get("external_id"))

    def _publication_unknown(self, payload: dict[str, Any]) -> None:
        self._write(publications.unknown, storable_text(str(payload["reason"]))[:500])

    # --- webhooks ------------------------------------------------------------------------------------------------

    def _load_callback(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        self._must_deliver()
        call = self._runtime.webhooks.signed_call(self._owned.job_id, self._owned.account)
        return None if call is None else {**call, "allowed_hosts": list(self._settings.allowed_hosts)}

    def _callback_answered(self, payload: dict[str, Any]) -> None:
        self._must_deliver()
        status, owned = int(payload["status_code"]), self._owned
        self._database.write(
            lambda connection: webhook_deliveries.note_answer(connection, owned.step_id, owned.run_token, status)
        )

    def _must_deliver(self) -> None:
        """No other pipeline's step may have its own data signed as a webhook."""
        if self._owned.pipeline != webhooks.PIPELINE:
            raise InvalidCall(f"only the pipeline {webhooks.PIPELINE!r} calls webhooks")


def _draft_view(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "title", "body", "tags", "status", "version")}
