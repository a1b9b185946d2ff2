"""A publisher from outside publishes through a real worker: its class is loaded and known in the step's own process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.settings import Settings
from tenants.secrets.sealing import new_key
from tenants.store.accounts import accounts
from tenants.store.jobs.create import JobPlan
from tests.orchestrator.conftest import Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

PUBLISHER = "tests.actors.publishers.outside_publishers:FolderPublisher"


@pytest.fixture
def service(redis_url: str, sqlite_template: Path, tmp_path: Path) -> Iterator[Service]:
    shutil.copy(sqlite_template, tmp_path / "onelane.db")
    made = Service(
        Settings(
            database_url=f"sqlite:///{tmp_path}/onelane.db",
            redis_url=redis_url,
            data_dir=tmp_path,
            secret_key=SecretStr(new_key()),
            pipelines=("tests.crashes.pipelines",),
            publishers=(PUBLISHER,),
        )
    )
    made.loops.start()
    yield made
    made.close()


def test_a_job_is_published_by_a_class_that_only_a_setting_names(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "posts"
    folder.mkdir()
    target = {"publisher": "folder", "base_url": "https://x.example", "options": {"folder": str(folder)}}
    service.runtime.database.write(lambda connection: accounts.put_target(connection, "acme", target))
    service.work(ONELANE_PIPELINES="tests.crashes.pipelines", ONELANE_PUBLISHERS=PUBLISHER)
    made, _ = service.runtime.jobs.create("acme", JobPlan("post", {"title": "Lanes", "body": "Each has its own."}))
    job = service.wait(str(made["id"]))
    assert job["status"] == "completed", job["error"]
    (post,) = folder.iterdir()
    assert json.loads(post.read_text()) == {"title": "Lanes", "text": "Each has its own."}
    assert job["result"]["publisher"] == "folder"
    assert job["result"]["url"] == post.as_uri()
