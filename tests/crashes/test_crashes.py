"""The short form: a few kills at the moments that matter most; ``python -m tests.crashes`` is the long one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.settings import Settings, installed_chromium
from tenants.database.transactions import Database
from tenants.migrations import migrate
from tenants.secrets.sealing import new_key
from tests.support.wordpress import wordpress_or_skip

from .campaign import Campaign
from .installation import Installation
from .report import table
from .targets import Target, running_demo_blog, running_wordpress_target
from .whole import Demo

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.browser, pytest.mark.timeout(900)]


def installation(folder: Path, database_url: str, redis_url: str, target: Target) -> Installation:
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        data_dir=folder,
        secret_key=SecretStr(new_key()),
        pipelines=("tests.crashes.pipelines",),
        allowed_hosts=(target.host,),
        threads=1,
        shutdown_grace_seconds=1,
    )
    return Installation(settings)


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> str:
    shutil.copy(sqlite_template, tmp_path / "onelane.db")
    return f"sqlite:///{tmp_path}/onelane.db"


@pytest.fixture
def postgres_database(postgres_url: str) -> str:
    database = Database(postgres_url)
    migrate(database)
    database.close()
    return postgres_url


@pytest.fixture(autouse=True)
def browser() -> None:
    assert installed_chromium() is not None, "these tests need Chromium (Debian: chromium-headless-shell)"


def test_killed_workers_publish_once_at_the_demo_blog(postgres_database: str, redis_url: str, tmp_path: Path) -> None:
    """Killed before the request, while the target works on it, and before its answer arrives."""
    with running_demo_blog(tmp_path / "blog") as blog:
        made = installation(tmp_path, postgres_database, redis_url, blog)
        try:
            verdict = Campaign(made, blog, kills=3, workers=3, moments=("started", "arrived", "accepted")).run()
        finally:
            made.close()
    assert verdict.ok, table([verdict])
    assert verdict.kills == 3
    assert verdict.posts == 6 + verdict.missed, "one more for each that was through before it could be caught"


@pytest.mark.wordpress
@pytest.mark.campaign
def test_a_killed_worker_publishes_once_at_wordpress(sqlite_database: str, redis_url: str, tmp_path: Path) -> None:
    wordpress_or_skip()
    with running_wordpress_target() as site:
        made = installation(tmp_path, sqlite_database, redis_url, site)
        try:
            verdict = Campaign(made, site, kills=1, workers=1, followers=0, moments=("accepted",)).run()
        finally:
            made.close()
    assert verdict.ok, table([verdict])
    assert verdict.kills == 1
    assert verdict.posts == 1 + verdict.missed, "one more if it was through before it could be caught"


@pytest.mark.campaign
def test_a_killed_demo_goes_on_where_it_was(tmp_path: Path) -> None:
    """`make demo` killed with -9 while it publishes: its processes end, and the next run doubles nothing."""
    verdict = Demo(tmp_path, texts=1).run(kills=2)
    assert verdict.ok, verdict
    assert verdict.posts == 5
