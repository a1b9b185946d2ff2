"""What every test gets: no settings from the machine it runs on, servers on demand, and the marks that follow."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is not a fault of the code: how long an example takes, to make or to run, is nobody's business.
settings.register_profile("onelane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("onelane")

pytest_plugins = ["tests.support.servers", "tests.support.progress"]

# A shell starts its background jobs with SIGINT ignored, and the commands that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Any of these marks takes a test out of `make check`.
NOT_UNIT = ("integration", "processes", "browser", "wordpress", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a real server as an integration test, and one of two databases as a campaign.

    A test that starts processes and runs on both databases is part of `make test` with one of them, in turns: the
    first such test of a file with PostgreSQL, the second with SQLite. `make test-all` runs both.
    """
    from tests.support.servers import SERVER_FIXTURES

    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
    databases: dict[tuple[Path, str], set[str]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("processes"):
            databases.setdefault((item.path, item.originalname), set()).update(_databases_of(item))
    on_both = [test for test, found in databases.items() if len(found) == 2]
    for item in items:
        if isinstance(item, pytest.Function) and (item.path, item.originalname) in on_both:
            turn = [name for path, name in on_both if path == item.path].index(item.originalname) % 2
            if _databases_of(item) != {("postgresql", "sqlite")[turn]}:
                item.add_marker(pytest.mark.campaign)
    # The files that take longest come first, so that no test process is left with one at the end.
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def _databases_of(item: pytest.Function) -> set[str]:
    """The database that a test has as a parameter."""
    given = getattr(item, "callspec", None)
    values = given.params.values() if given is not None else ()
    return {value for value in values if value in ("sqlite", "postgresql")}


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A test never sees the settings, keys or `.env` of the person who runs it."""
    for name in list(os.environ):
        if name.startswith("ONELANE_") or name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL"):
            monkeypatch.delenv(name)
    if Path(".env").exists() or Path("onelane.toml").exists():
        monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
