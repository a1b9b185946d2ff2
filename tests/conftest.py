"""What every test gets: no settings from the machine it runs on, servers on demand, and the marks that follow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is not a fault of the code: how long an example takes, to make or to run, is nobody's business.
settings.register_profile("onelane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("onelane")

pytest_plugins = ["tests.servers", "tests.progress"]

#: Any of these marks takes a test out of `make check`.
NOT_UNIT = ("integration", "processes", "browser", "wordpress", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a real server is an integration test, whether its author said so or not."""
    from tests.servers import SERVER_FIXTURES  # a plugin: pytest imports it first, so that its asserts are rewritten

    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A test never sees the settings, keys or `.env` of the person who runs it."""
    for name in list(os.environ):
        if name.startswith("ONELANE_") or name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL"):
            monkeypatch.delenv(name)
    if Path(".env").exists() or Path("onelane.toml").exists():
        monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
