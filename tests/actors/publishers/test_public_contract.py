"""The importable contract over a built-in publisher, and over the docs' example from outside of the package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from actors.clients.publishers.demo import DemoPublisher
from actors.port import Credentials
from onelane.testing import ContractSite, PublisherContract
from tests import ROOT
from tests.actors.publishers.demo_site import PASSWORD, DemoBlog
from tests.support.wordpress import WordPressSite

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


class TestDemo(PublisherContract):
    @pytest.fixture
    def site(self, demo_blog: DemoBlog, chromium: str, name: str) -> ContractSite:
        demo_blog.store.create_user(name, PASSWORD)
        return ContractSite(
            DemoPublisher, demo_blog.url, Credentials(name, PASSWORD), allowed_hosts=("127.0.0.1",), chromium=chromium
        )


@pytest.mark.wordpress
@pytest.mark.slow
def test_the_example_of_the_docs_passes_from_outside_of_the_package(
    wordpress: WordPressSite, name: str, tmp_path: Path
) -> None:
    # Given the two files of docs/publishers.md in a folder that holds nothing of ours
    text = (ROOT / "docs/publishers.md").read_text()
    for file, code in re.findall(r"[Tt]his is `(\w+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / file).write_text(code)
    assert {each.name for each in tmp_path.iterdir()} == {"wordpress_rest.py", "test_wordpress_rest.py"}
    wordpress.create_user(name, PASSWORD)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ONELANE_")},
        "PYTHONPATH": str(tmp_path),
        "WP_URL": wordpress.url,
        "WP_USER": name,
        "WP_APPLICATION_PASSWORD": wordpress.application_password(name),
        "ONELANE_PUBLISHERS": "wordpress_rest:WordPressRest",
    }
    # When its own tests run there
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    # Then it keeps the contract, with all but one capability
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "1 skipped" in done.stdout
    # And onelane knows it by the setting alone
    command = [sys.executable, "-m", "orchestrator.cli", "publishers", "list", "--json"]
    listed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr
    items = {each["publisher"]: each for each in json.loads(listed.stdout)["items"]}
    assert items["wordpress-rest"]["capabilities"] == ["remove", "update"]
