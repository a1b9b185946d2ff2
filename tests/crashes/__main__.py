"""The long form: ``python -m tests.crashes --demo 20 --wordpress 5 --whole 4 [--database postgresql]``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from orchestrator.settings import Settings
from tenants.database.transactions import Database
from tenants.migrations import migrate
from tenants.secrets.sealing import new_key
from tests.support.servers import start_valkey

from .campaign import Campaign, Verdict
from .installation import Installation
from .postgres import running_postgres
from .report import dump, table
from .targets import Target, running_demo_blog, running_wordpress_target
from .whole import Demo


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description="Kill workers while they publish.")
    parser.add_argument("--demo", type=int, default=20, help="kills while publishing at the demo blog")
    parser.add_argument("--wordpress", type=int, default=5, help="kills while publishing at WordPress")
    parser.add_argument("--whole", type=int, default=4, help="kills of a whole `onelane demo`")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--workers", type=int, default=3, help="worker processes at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the verdicts there")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    verdicts = []
    with contextlib.ExitStack() as stack:
        if given.demo:
            folder = _folder(stack)
            blog = stack.enter_context(running_demo_blog(folder / "blog"))
            verdicts.append(_campaign(folder, blog, given, given.demo, followers=1))
        if given.wordpress:
            site = stack.enter_context(running_wordpress_target())
            verdicts.append(_campaign(_folder(stack), site, given, given.wordpress, followers=0))
        whole = Demo(_folder(stack), say=_say).run(given.whole, seed=given.seed) if given.whole else None
    print(table(verdicts, whole))
    if given.json:
        given.json.write_text(dump(verdicts, whole))
    return 0 if all(verdict.ok for verdict in verdicts) and (whole is None or whole.ok) else 1


def _say(line: str) -> None:
    print(line, flush=True)


def _folder(stack: contextlib.ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onelane-crashes-")))


def _campaign(folder: Path, target: Target, given: argparse.Namespace, kills: int, *, followers: int) -> Verdict:
    with _database(given.database, folder) as url, _installation(folder, url, target.host) as installation:
        campaign = Campaign(
            installation,
            target,
            kills,
            seed=given.seed,
            workers=given.workers,
            followers=followers,
            say=_say,
        )
        return campaign.run(seconds=120 + 60.0 * kills)


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/onelane.db"
        return
    with running_postgres() as server:
        yield server.url


@contextlib.contextmanager
def _installation(folder: Path, database_url: str, host: str) -> Iterator[Installation]:
    database = Database(database_url)
    migrate(database)
    database.close()
    valkey = start_valkey(folder)
    try:
        settings = Settings(
            database_url=database_url,
            redis_url=valkey.url,
            data_dir=folder,
            secret_key=SecretStr(new_key()),
            pipelines=("tests.crashes.pipelines",),
            allowed_hosts=(host,),
            threads=1,
            shutdown_grace_seconds=1,
        )
        installation = Installation(settings)
        try:
            yield installation
        finally:
            installation.close()
    finally:
        valkey.stop()


if __name__ == "__main__":
    sys.exit(main())
