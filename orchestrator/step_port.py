"""The worker's end of a step's `Port`: answers each call for one attempt, and only while it owns its step.

Invariants
- The account, the job and the run token come from the attempt that the worker started, never from the step's
  own words; a step cannot name another account.
- A step gets what its `@step` declares (`uses`) and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from actors.clients.publishers import KnownPublisher
from actors.declarations import Declaration
from actors.errors import InvalidCall, ProviderError, StepError
from actors.port import MAX_ARTIFACT_BYTES
from tenants import webhooks
from tenants.columns import db_now
from tenants.database import Database
from tenants.errors import InvalidInput, OwnershipLost, Unavailable
from tenants.models import Account, Artifact, Job, new_id
from tenants.sessions import Sessions
from tenants.storable import storable_text
from tenants.store import alerts, provider_backoffs, publications, queues, steps, usage, webhook_deliveries
from tenants.store.attempt import OwnedAttempt

from .settings import Settings
from .settings_sync import SettingsSync
from .step_journal import StepJournal
from .text_model import credential_of, text_model_scope
from .webhooks import Webhooks

log = logging.getLogger(__name__)
accounts, artifacts, jobs = Account.__table__, Artifact.__table__, Job.__table__

MAX_TITLE_CHARACTERS = 500
MAX_BODY_CHARACTERS = 500_000
MAX_TAGS = 50


#: The call with which a step's process asks to enter the function of an irreversible step; see `isolation.child`.
ENTER = "step.enter"


class StepPort:
    """Serves one attempt. `call` raises errors with a `code`, which reach the step.

    What `send` takes is in `journal`, which the caller closes when the attempt has ended.
    """

    def __init__(
        self,
        owned: OwnedAttempt,
        database: Database,
        sessions: Sessions,
        settings: Settings,
        settings_sync: SettingsSync,
        webhooks: Webhooks,
        journal: StepJournal,
        *,
        uses: Declaration,
        publishers: Mapping[str, KnownPublisher] | None = None,
        check_worker: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_worker` raises OwnershipLost when the worker's steps may run elsewhere by now."""
        self._owned = owned
        #: Whether the step's function may have been entered, where that is recorded: for irreversible steps.
        self.entered = False
        #: Why that could not be recorded, so that the function was not entered.
        self.kept_out: str | None = None
        self._check_worker = check_worker
        self._uses = uses
        self._queue_settings = settings_sync
        self._database = database
        self._sessions = sessions
        self._settings = settings
        self._webhooks = webhooks
        self._publishers = publishers or {}
        self._journal = journal
        #: What a step sends without waiting for an answer.
        self._notes: dict[str, Callable[[dict[str, Any]], None]] = {
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
            InvalidCall: no such verb, its payload is out of shape, or too large; another try would end the same way.
            NotDeclared: the step does not declare what this verb gives.
            OwnershipLost: the attempt does not own its step any more.
        """
        verb = self._verbs.get(name)
        if verb is None:
            raise InvalidCall(f"a step called {name!r}, which is not one of {', '.join(sorted(self._verbs))}")
        self._check_worker()
        self._journal.flush()  # what the step said before stands before what it does now
        try:
            self._uses.check(f"{self._owned.pipeline}.{self._owned.name}", name, payload)
            return verb(payload)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCall(f"a step called {name!r} with a payload out of shape: {error!r}") from error

    def send(self, name: str, payload: dict[str, Any]) -> None:
        """Take what a step sends without waiting for an answer: log lines and progress.

        Raises:
            InvalidCall: no such message, or its payload is out of shape.
            OwnershipLost: as `call`; or the attempt was found not to own its step when earlier ones were written.
        """
        self._check_worker()
        if self._journal.ownership_lost:
            raise self._owned.ownership_lost()
        note = self._notes.get(name)
        if note is None:
            raise InvalidCall(f"a step sent {name!r}, which is not one of {', '.join(sorted(self._notes))}")
        try:
            note(payload)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCall(f"a step sent {name!r} with a payload out of shape: {error!r}") from error

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
            self._database.write(lambda connection: steps.enter(connection, self._owned))
        except Unavailable as error:
            self.kept_out = str(error)
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
            steps.still_there(connection, owned)
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
            steps.still_there(connection, self._owned)
            usage.add(connection, self._owned.account, tokens=tokens)
            provider_backoffs.accepted(connection, text_model_scope(self._settings))

        if tokens > 0:
            self._database.write(work)

    # --- clients -------------------------------------------------------------------------------------------------

    def _client_settings(self, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["name"] == "text_model":
            return self._text_model_settings()
        try:
            return client_settings(self._settings, str(payload["name"]))
        except InvalidInput as error:  # another worker may have what lacks here
            raise ProviderError(str(error)) from None

    def _text_model_settings(self) -> dict[str, Any]:
        """Gemini with a key; without one the offline model, which speaks the same protocol and says what it is."""
        settings = self._settings
        if settings.gemini_api_key is not None:
            key = settings.gemini_api_key.get_secret_value()
            answer: dict[str, Any] = {
                "api_key": key,
                "base_url": settings.gemini_base_url,
                "model": settings.text_model,
                "offline": False,
                "credential": credential_of(settings),
            }
        elif settings.offline_model_url is not None:
            answer = {
                "api_key": "offline",
                "base_url": settings.offline_model_url,
                "model": "offline-model",
                "offline": True,
                "credential": credential_of(settings),
            }
        else:
            raise ProviderError("no text model is set up: set GEMINI_API_KEY, or run `onelane up`, which has its own")
        scope = text_model_scope(settings)
        return {
            **answer,
            "busy_seconds": self._database.read(lambda connection: provider_backoffs.rest_seconds(connection, scope)),
        }

    # --- session and target --------------------------------------------------------------------------------------

    def _load_session(self, payload: dict[str, Any]) -> dict[str, Any]:
        session = self._sessions.load(self._owned.account)
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
            steps.still_owned(connection, self._owned)
            self._sessions.save(connection, self._owned.account, storage_state=state, expires_at=expires_at)

        self._database.write(work)

    def _login_required(self, payload: dict[str, Any]) -> None:
        """Note it, and pause the account's lane: its other jobs would only fail the same way."""
        owned, reason = self._owned, storable_text(str(payload["reason"]))[:500]

        def work(connection: Connection) -> None:
            steps.still_owned(connection, owned)
            self._sessions.require_login(connection, owned.account, reason)
            queues.pause_for_login(connection, owned.lane, owned.account)
            details = {"lane": owned.lane, "pipeline": owned.pipeline, "step": owned.name, "job_id": owned.job_id}
            alerts.note(
                connection, "login_required", account=owned.account, subject=(), details=details, once_per_job=True
            )

        self._database.write(work)
        self._queue_settings.sync_account(owned.account)

    def _load_target(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        statement = select(accounts.c.target).where(accounts.c.id == self._owned.account)
        found: dict[str, Any] | None = self._database.read(
            lambda connection: connection.execute(statement).scalar_one_or_none()
        )
        if found is None:
            return None
        # The step's process has no settings, so it cannot know which class a name means.
        known = self._publishers.get(found["publisher"])
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
        row = self._database.write(
            lambda connection: publications.create_draft(
                connection,
                self._owned,
                title=storable_text(title),
                body=storable_text(body),
                tags=[storable_text(tag) for tag in tags],
            )
        )
        return _draft_view(row)

    def _load_draft(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        row = self._database.read(lambda connection: publications.load_draft_for_step(connection, self._owned))
        return None if row is None else _draft_view(row)

    def _open_publication(self, payload: dict[str, Any]) -> dict[str, Any]:
        publisher, base_url = str(payload["publisher"]), str(payload["base_url"])
        entry = self._database.write(
            lambda connection: publications.open_entry(connection, self._owned, publisher=publisher, base_url=base_url)
        )
        names = ("id", "marker", "status", "publisher", "base_url", "url", "external_id", "started_seconds_ago")
        return {name: entry[name] for name in names}

    def _publication_started(self, payload: dict[str, Any]) -> None:
        version = int(payload["version"])
        self._database.write(lambda connection: publications.started(connection, self._owned, version))

    def _publication_absent(self, payload: dict[str, Any]) -> None:
        self._database.write(lambda connection: publications.absent(connection, self._owned))

    def _publication_confirmed(self, payload: dict[str, Any]) -> None:
        url, external_id = str(payload["url"]), payload.get("external_id")
        self._database.write(
            lambda connection: publications.confirmed(connection, self._owned, url=url, external_id=external_id)
        )

    def _publication_unknown(self, payload: dict[str, Any]) -> None:
        reason = storable_text(str(payload["reason"]))[:500]
        self._database.write(lambda connection: publications.unknown(connection, self._owned, reason))

    # --- webhooks ------------------------------------------------------------------------------------------------

    def _load_callback(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        self._must_deliver()
        call = self._webhooks.signed_call(self._owned.job_id, self._owned.account)
        return None if call is None else {**call, "allowed_hosts": list(self._settings.allowed_hosts)}

    def _callback_answered(self, payload: dict[str, Any]) -> None:
        self._must_deliver()
        status, owned = int(payload["status_code"]), self._owned
        self._database.write(
            lambda connection: webhook_deliveries.note_answer(connection, owned.step_id, owned.run_token, status)
        )

    def _must_deliver(self) -> None:
        """Another pipeline's step must not have a body of its choice signed as a webhook."""
        if self._owned.pipeline != webhooks.PIPELINE:
            raise InvalidCall(f"only the pipeline {webhooks.PIPELINE!r} calls webhooks")


def client_settings(settings: Settings, name: str) -> dict[str, Any]:
    """What the client of that name is made from, where it needs no credential.

    Raises:
        InvalidInput: there is no such client, or this machine cannot run it.
    """
    if name == "http":
        return {"allowed_hosts": list(settings.allowed_hosts)}
    if name != "browser":
        raise InvalidInput(f"there are no settings for a client {name!r}; there are: browser, http, text_model")
    chromium = settings.find_chromium()
    if chromium is None:
        raise InvalidInput("no Chromium was found: install chromium-headless-shell or set ONELANE_CHROMIUM")
    return {"executable": str(chromium), "allowed_hosts": list(settings.allowed_hosts), "headless": True}


def _draft_view(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "title", "body", "tags", "status", "version")}
