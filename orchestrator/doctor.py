"""`onelane doctor`: looks at each part that the service needs, and says how to fix what is wrong.

Every examination is bounded in time, changes nothing, and never shows a secret.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx2
from dramatiq.errors import BrokerConnectionError
from rich.markup import escape

from actors.clients.publishers import PublisherError, load_publishers
from actors.extras import ExtraMissing, is_installed
from actors.pipeline import PipelineError, load_pipelines
from tenants.database import Database
from tenants.errors import SecretsError, Unavailable
from tenants.key_rotation import tally
from tenants.queues import QueueError, TenantBroker
from tenants.sealing import Sealer, split_keys

from .data_folder import DataFolder, why_not_writable
from .settings import Settings, SettingsError
from .terminal import console, print_json

_SECONDS = 10.0
#: How long a browser may take to start and show a page: a busy machine is no reason to tell people to install another.
_START_SECONDS = 60.0
_MARKS = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "wrong": "[bold red]wrong[/]  "}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one part; `fix` is what to do, empty when nothing is."""

    part: str
    status: Literal["ok", "note", "wrong"]
    message: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """`mend` is the name that `fix` had at first; programs may still read it."""
        return {**asdict(self), "mend": self.fix}


def examine(data_dir: Path | None = None) -> list[Finding]:
    """Look at everything. Settings that are wrong are all that can be told then."""
    try:
        settings = Settings.load(data_dir=data_dir)
    except SettingsError as error:
        return [
            Finding("settings", "wrong", fault, "correct it in the environment, .env or onelane.toml")
            for fault in error.faults
        ]
    examinations: list[Callable[[Settings], list[Finding]]] = [
        _settings,
        _data_dir,
        _database,
        _secrets,
        _redis,
        _pipelines,
        _publishers,
        _browser,
        _model,
        _alerts,
    ]
    return [finding for examination in examinations for finding in _guarded(examination, settings)]


def settings_are_readable(findings: list[Finding]) -> bool:
    """False where nothing but the settings' own faults could be found."""
    return any(each.part != "settings" or each.status != "wrong" for each in findings)


def _guarded(examination: Callable[[Settings], list[Finding]], settings: Settings) -> list[Finding]:
    """What was found. That it failed itself is a finding too, without the error's message: it may hold a secret."""
    try:
        return examination(settings)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return [
            Finding(
                examination.__name__.strip("_"),
                "wrong",
                f"the examination failed: {type(error).__name__} at {at.filename}:{at.lineno}",
                "check the setting of this part; if it is right, report this line as a fault of onelane",
            )
        ]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def print_findings(findings: list[Finding], *, json: bool) -> None:
    """For programs one document, for people a line each, and below it how to fix it."""
    if json:
        print_json(
            {"ok": all(each.status != "wrong" for each in findings), "findings": [each.as_json() for each in findings]}
        )
        return
    for finding in findings:
        console.print(f"{_MARKS[finding.status]}{finding.part:<9} {escape(finding.message)}", soft_wrap=True)
        if finding.fix:
            console.print(f"                 → {escape(finding.fix)}", soft_wrap=True)


def _settings(settings: Settings) -> list[Finding]:
    folder = DataFolder(settings.data_dir)
    findings = []
    for name, key in (("admin", settings.admin_key), ("secret", settings.secret_key)):
        variable = f"ONELANE_{name.upper()}_KEY"
        if key is not None:
            findings.append(Finding("settings", "ok", f"{variable} is set"))
        elif folder.kept_key(name):
            findings.append(Finding("settings", "ok", f"{variable} is not set; `up` made one in {folder.path}"))
        else:
            findings.append(
                Finding(
                    "settings",
                    "note",
                    f"{variable} is not set; `up` will make one, `serve` and `work` need it",
                    f"set {variable} to what `onelane doctor --new-key` prints",
                )
            )
    return findings


def _data_dir(settings: Settings) -> list[Finding]:
    path = settings.data_dir
    if not path.exists():
        parent = next(each for each in path.parents if each.exists())
        reason = why_not_writable(parent)
        if reason is None:
            return [Finding("files", "note", f"{path} does not exist yet; it is made at the first start")]
        message = f"{path} does not exist, and cannot be made in {parent}: {reason}"
        return [Finding("files", "wrong", message, "set ONELANE_DATA_DIR to a directory that this user can make")]
    reason = why_not_writable(path)
    if reason is not None:
        return [
            Finding(
                "files",
                "wrong",
                f"{path} cannot be written to: {reason}",
                "give this user the directory, or set ONELANE_DATA_DIR to another",
            )
        ]
    findings = [Finding("files", "ok", f"{path} can be written to")]
    loose = [name for name in ("admin.key", "secret.key") if _mode(path / name) & 0o077]
    if loose:
        findings.append(
            Finding("files", "wrong", f"other users can read {', '.join(loose)} in {path}", "chmod 600 them")
        )
    return findings


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0


def _database(settings: Settings) -> list[Finding]:
    database: Database | None = None
    try:
        database = Database(settings.database_url, pool_size=1)
        name = database.url.render_as_string(hide_password=True)
        if database.dialect == "sqlite" and not Path(database.url.database or "").exists():
            return [Finding("database", "note", f"{name} does not exist yet; `up` or `onelane migrate` makes it")]
        database.ping()
        pending, pooled = database.pending_migrations(), database.is_pooled
    except (Unavailable, ValueError, OSError, sqlite3.Error) as error:
        fix = "start the database, or correct ONELANE_DATABASE_URL"
        return [Finding("database", "wrong", f"it cannot be reached: {_first_line(error)}", fix)]
    finally:
        if database is not None:
            database.close()
    if pending:
        return [Finding("database", "wrong", f"{name} lacks {len(pending)} migration(s)", "run `onelane migrate`")]
    findings = [Finding("database", "ok", f"{name} answers, and its schema is up to date")]
    if pooled:
        message = "a connection pooler such as pgbouncer stands before it: statements are planned again each time"
        findings.append(Finding("database", "note", message, "give the server's own address, which is faster"))
    return findings


def _secrets(settings: Settings) -> list[Finding]:
    """Which keys the sealed values need; nothing where there is no database yet, which is told by its own finding."""
    folder = DataFolder(settings.data_dir)
    secret = settings.secret_key.get_secret_value() if settings.secret_key else folder.kept_key("secret")
    database: Database | None = None
    try:
        database = Database(settings.database_url, pool_size=1)
        if database.dialect == "sqlite" and not Path(database.url.database or "").exists():
            return []
        if secret is None or database.pending_migrations():
            return []
        counts = tally(database, Sealer(split_keys(secret))).values()
    except (Unavailable, SecretsError, ValueError, OSError, sqlite3.Error):
        return []
    finally:
        if database is not None:
            database.close()
    newest, older = sum(each.newest for each in counts), sum(each.older for each in counts)
    unknown = sum(each.unknown for each in counts)
    if unknown:
        return [
            Finding(
                "secrets",
                "wrong",
                f"{unknown} sealed value(s) were sealed with a key that is not set, and cannot be opened",
                "put that key behind the others in ONELANE_SECRET_KEY, after a comma; if it is lost, set these "
                "sessions and webhook secrets again",
            )
        ]
    if older:
        return [
            Finding(
                "secrets",
                "note",
                f"{older} sealed value(s) were sealed with an older key, {newest} with the first",
                "run `onelane secrets rotate`; until then the older key must stay in ONELANE_SECRET_KEY",
            )
        ]
    more = " Keys behind the first are not needed any longer." if len(split_keys(secret)) > 1 else ""
    return [Finding("secrets", "ok", f"{newest} sealed value(s), all with the first secret key.{more}")]


def _redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is None:
        message = "ONELANE_REDIS_URL is not set; `up` starts an embedded Valkey, `serve` and `work` need it"
        return [Finding("redis", "note", message)]
    broker = TenantBroker(url=settings.redis_url, namespace="onelane-doctor", middleware=[])
    try:
        info = broker.check_server()
        faults = broker.check_health().faults
    except (QueueError, BrokerConnectionError, OSError) as error:
        return [Finding("redis", "wrong", _first_line(error), "start it, or correct ONELANE_REDIS_URL")]
    finally:
        broker.close()
    found = [Finding("redis", "ok", f"{info.flavour} {info.version} answers")]
    for reason, meaning in faults.items():
        if reason == "evicting":
            found.append(Finding("redis", "note", meaning, "CONFIG SET maxmemory-policy noeviction"))
        else:
            found.append(Finding("redis", "wrong", meaning, _REFUSAL_HELP.get(reason, "see the server's own log")))
    return found


#: What to do about a Redis that takes no writes.
_REFUSAL_HELP = {
    "full": "raise its maxmemory, or remove what else lies in it",
    "cannot_save": "make room on its disk, and see its own log",
    "read_only": "point ONELANE_REDIS_URL at the primary",
}


def _pipelines(settings: Settings) -> list[Finding]:
    try:
        found = load_pipelines(settings.pipelines)
    except PipelineError as error:
        return [Finding("pipelines", "wrong", str(error), "correct the module, or ONELANE_PIPELINES")]
    return [Finding("pipelines", "ok", f"loaded: {', '.join(sorted(found))}")]


def _publishers(settings: Settings) -> list[Finding]:
    try:
        found = load_publishers(settings.publishers)
    except PublisherError as error:
        return [Finding("publishers", "wrong", str(error), "correct the class, or ONELANE_PUBLISHERS")]
    return [Finding("publishers", "ok", f"known: {', '.join(sorted(found))}")]


def _browser(settings: Settings) -> list[Finding]:
    fix = "install one (apt-get install chromium-headless-shell), or set ONELANE_CHROMIUM to its executable"
    if not is_installed("browser"):
        missing = ExtraMissing("browser", "the browser")
        return [Finding("browser", "note", str(missing), "install it where steps drive a browser")]
    found = settings.find_chromium()
    if found is None:
        return [Finding("browser", "wrong", "no Chromium was found: nothing can be published", fix)]
    command = [str(found), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "data:text/html,<p>onelane"]
    try:
        shown = subprocess.run(command, capture_output=True, timeout=_START_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("browser", "wrong", f"{found} does not run: {_first_line(error)}", fix)]
    if b"<p>onelane" not in shown.stdout:
        last = shown.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return [Finding("browser", "wrong", f"{found} shows no page: {' '.join(last)}", fix)]
    return [Finding("browser", "ok", f"{found} shows pages"), *_driver()]


def _driver() -> list[Finding]:
    fix = "install what it lacks (apt-get install libatomic1 libstdc++6)"
    command = [sys.executable, "-m", "playwright", "--version"]
    try:
        shown = subprocess.run(command, capture_output=True, timeout=_START_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("driver", "wrong", f"Playwright's driver does not run: {_first_line(error)}", fix)]
    if shown.returncode:
        last = shown.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return [Finding("driver", "wrong", f"Playwright's driver does not start: {' '.join(last)}", fix)]
    return [Finding("driver", "ok", f"Playwright {shown.stdout.decode().split()[-1]} steers it")]


def _model(settings: Settings) -> list[Finding]:
    if settings.gemini_api_key is None:
        given = settings.offline_model_url
        where = _without_password(given) if given else "which `up` starts"
        return [
            Finding(
                "model",
                "note",
                f"no GEMINI_API_KEY: texts come from the offline model, {where}",
                "set GEMINI_API_KEY for the real one",
            )
        ]
    base = settings.gemini_base_url or "https://generativelanguage.googleapis.com"
    shown = _without_password(base)
    key = settings.gemini_api_key.get_secret_value()
    try:
        # Reading a model's card costs nothing, and tells a wrong key from a wrong name.
        answer = httpx2.get(
            f"{base}/v1beta/models/{settings.text_model}", headers={"x-goog-api-key": key}, timeout=_SECONDS
        )
    except httpx2.HTTPError as error:
        fix = "check the network, or ONELANE_GEMINI_BASE_URL"
        return [Finding("model", "wrong", f"{shown} cannot be reached: {_first_line(error)}", fix)]
    if answer.status_code == 404:
        return [Finding("model", "wrong", f"there is no model {settings.text_model!r}", "correct ONELANE_TEXT_MODEL")]
    if answer.status_code >= 400:
        return [Finding("model", "wrong", f"{shown} answers {answer.status_code}", "check GEMINI_API_KEY")]
    return [Finding("model", "ok", f"{shown} knows {settings.text_model} and accepts the key")]


def _alerts(settings: Settings) -> list[Finding]:
    if not settings.alert_urls:
        message = "ONELANE_ALERT_URLS is not set: no alerts are sent"
        return [Finding("alerts", "note", message, "set it to apprise URLs, separated by spaces; see docs/alerts.md")]
    from .alerts.channels import channels_of

    found = ", ".join(each.kind for each in channels_of([url.get_secret_value() for url in settings.alert_urls]))
    # Sending would change something: that is for `onelane alerts test`.
    return [Finding("alerts", "ok", f"they go to {found}; `onelane alerts test` sends one")]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
