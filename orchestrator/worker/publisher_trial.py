"""Tries a publisher with an account's own target and session, in this process and without a job.

Invariant: jobs, drafts and the publication ledger are not read or written. The account's session is used, and the new
state after a sign-in is kept, as in a publish step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from actors.clients import Clients
from actors.clients.publishers import load_publishers, open_publisher
from actors.clients.publishers.base import PublisherClients
from actors.port import Credentials, SessionState, Target
from actors.publisher_trial import Stage, Trial
from actors.publishing import session_ends_at
from tenants.account import parse_account
from tenants.database.transactions import Database
from tenants.errors import InvalidInput, NotFound
from tenants.secrets.sealing import Sealer, split_keys
from tenants.secrets.sessions import Sessions
from tenants.store.accounts import accounts

from ..local.data_folder import DataFolder
from ..local.schema import missing_revisions
from ..settings import Settings, SettingsError
from ..step_clients import client_settings

#: The time limit of one trial, equal to a publish step's.
TRIAL_SECONDS = 300.0


class PreparedTrial:
    """A trial that is ready to run. Nothing was opened yet."""

    def __init__(self, trial: Trial, target: Target, account: str, sessions: Sessions, database: Database) -> None:
        self._trial = trial
        self._target = target
        self._account = account
        self._sessions = sessions
        self._database = database

    @property
    def base_url(self) -> str:
        return self._target.base_url

    @property
    def marker(self) -> str:
        return self._trial.marker

    @property
    def url(self) -> str | None:
        """The address of the trial's post; None if there is none."""
        return self._trial.post.url if self._trial.post is not None else None

    def stages(self) -> Iterator[Stage]:
        """Run the trial, and yield its stages as they end."""
        for stage in self._trial.run():
            if stage.name == "session" and self._trial.renewed is not None:
                self._keep(self._trial.renewed.storage_state)
            yield stage

    def _keep(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        expires_at = session_ends_at(state)
        self._database.write(
            lambda connection: self._sessions.save(
                connection, self._account, storage_state=state, expires_at=expires_at
            )
        )


@contextlib.contextmanager
def prepared(
    settings: Settings, name: str, account: str, *, base_url: str | None = None, keep: bool = False
) -> Iterator[PreparedTrial]:
    """Prepare a trial; its browser ends with the block.

    Raises:
        SettingsError: the secret key is missing, or the schema is not up to date.
        PublisherError, InvalidInput, NotFound, StepError: there is no such publisher, account or target, or the target
            belongs to another publisher; the message says which.
    """
    parse_account(account)
    known = load_publishers(settings.publishers).get(name)
    if known is None:
        raise InvalidInput(f"there is no publisher {name!r}; `onelane publishers list` shows those there are")
    settings = _with_keys(settings)
    assert settings.secret_key is not None
    database = Database(settings.database_url, pool_size=2)
    try:
        if missing_revisions(database):
            raise SettingsError(["the database lacks migrations: run `onelane migrate` first"])
        sessions = Sessions(database, Sealer(split_keys(settings.secret_key.get_secret_value())))
        if base_url is None:
            found = _target(database, name, account)
            target = Target(name, found["base_url"], found["options"], known.reference)
        else:
            target = Target(name, base_url, {}, known.reference)
        with PublisherClients(Clients(_SettingsPort(settings), _clock())) as clients:
            trial = Trial(open_publisher(target, clients), _session(sessions, account), keep=keep)
            yield PreparedTrial(trial, target, account, sessions, database)
    finally:
        database.close()


class _SettingsPort:
    """The port of a trial: it answers only the settings of clients."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        if name != "client.settings":
            raise InvalidInput(f"a publisher called {name!r}; a publisher reaches its target and nothing else")
        return client_settings(self._settings, str(payload["name"]))

    def send(self, name: str, payload: dict[str, Any]) -> None:
        raise InvalidInput(f"a publisher sent {name!r}; a publisher reaches its target and nothing else")


def _with_keys(settings: Settings) -> Settings:
    """The settings as `onelane up` completes them: with its generated key, and its demo blog's host."""
    folder = DataFolder(settings.data_dir)
    changed: dict[str, Any] = {}
    if settings.secret_key is None:
        kept = folder.kept_key("secret")
        if kept is None:
            raise SettingsError(settings.missing("secret_key"))
        changed["secret_key"] = SecretStr(kept)
    blog = folder.ports().get("demo_blog")
    if blog is not None:
        changed["allowed_hosts"] = (*settings.allowed_hosts, f"127.0.0.1:{blog}")
    return settings.model_copy(update=changed)


def _target(database: Database, name: str, account: str) -> dict[str, Any]:
    try:
        found = database.read(lambda connection: accounts.target(connection, account))
    except NotFound as error:
        raise NotFound(f"{error}: set it (`onelane accounts target set`), or give --base-url") from None
    if found["publisher"] != name:
        raise InvalidInput(
            f"account {account!r} publishes with {found['publisher']!r} and not with {name!r}: "
            "change its target, or give --base-url"
        )
    return found


def _session(sessions: Sessions, account: str) -> SessionState:
    found = sessions.load(account)
    if found is None:
        return SessionState(None, None)
    credentials = Credentials(**found.credentials) if found.credentials else None
    return SessionState(found.storage_state, credentials)


def _clock() -> Callable[[], float]:
    ends_at = datetime.now(UTC) + timedelta(seconds=TRIAL_SECONDS)
    return lambda: max(0.0, (ends_at - datetime.now(UTC)).total_seconds())
