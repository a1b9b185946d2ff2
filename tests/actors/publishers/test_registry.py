"""Publishers from outside: named by a setting or an installed package, checked at start, known in a step's process."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints

import pytest

import actors
from actors import PublishFailed, Target, capabilities
from actors.clients import publishers
from actors.clients.publishers import BUILT_IN, PublisherError, class_of, load_publishers, open_publisher
from actors.clients.publishers.base import PublisherClients
from actors.testing import MemoryPort
from orchestrator.settings import Settings
from tests.support.ports import make_context

OUTSIDE = "tests.actors.publishers.outside_publishers"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes an entry point, as an installed package would."""

    def install(name: str, value: str) -> None:
        point = EntryPoint(name, value, "onelane.publishers")
        monkeypatch.setattr(publishers, "entry_points", lambda group: EntryPoints([point]).select(group=group))

    return install


def unopened() -> PublisherClients:
    return PublisherClients(make_context(MemoryPort()).clients)


def test_the_built_in_ones_are_always_there_and_are_what_they_are_called() -> None:
    found = load_publishers()
    assert set(BUILT_IN) <= set(found)
    for name, reference in BUILT_IN.items():
        assert class_of(reference).name == name
        assert found[name].reference == reference


def test_a_setting_names_a_publisher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONELANE_PUBLISHERS", f"{OUTSIDE}:Right, {OUTSIDE}:Timeless")
    found = load_publishers(Settings.load().publishers)
    assert found["right"].reference == f"{OUTSIDE}:Right"
    assert found["right"].module == OUTSIDE
    assert "timeless" in found


def test_an_installed_package_names_a_publisher(installed: Callable[[str, str], None]) -> None:
    installed("right", f"{OUTSIDE}:Right")
    assert load_publishers()["right"].origin == "entry point 'right'"
    # The setting may name the same one again
    assert load_publishers([f"{OUTSIDE}:Right"])["right"].reference == f"{OUTSIDE}:Right"
    installed("wrong", f"{OUTSIDE}:Right")
    with pytest.raises(PublisherError, match=r"'wrong'.*'right'.*same"):
        load_publishers()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (f"{OUTSIDE}:Incomplete", "lacks publish, read_back"),
        (f"{OUTSIDE}:BadName", "'Right!'"),
        (f"{OUTSIDE}:TakesBuiltInName", "two publishers are named 'wordpress'"),
        (f"{OUTSIDE}:NOT_A_CLASS", "no class"),
        (f"{OUTSIDE}:Absent", "Absent"),
        ("no.such.module:Right", "No module named 'no'"),
        (OUTSIDE, "module:Class"),
        (":Right", "module:Class"),
    ],
)
def test_a_wrong_one_is_named_at_start(reference: str, words: str) -> None:
    with pytest.raises(PublisherError, match="ONELANE_PUBLISHERS") as refused:
        load_publishers([reference])
    assert words in str(refused.value)
    assert reference in str(refused.value)


def test_two_of_one_name_are_named_both() -> None:
    with pytest.raises(PublisherError, match=r":Right .*:SameName"):
        load_publishers([f"{OUTSIDE}:Right", f"{OUTSIDE}:SameName"])


def test_a_step_s_process_opens_the_class_that_the_worker_names() -> None:
    target = Target("right", "https://x.example", {}, f"{OUTSIDE}:Right")
    opened = open_publisher(target, unopened())
    assert opened.name == "right"
    assert capabilities(opened) == capabilities(type(opened)) == {"remove"}
    with pytest.raises(PublishFailed, match="settle_seconds, find_is_reliable"):
        open_publisher(Target("timeless", "https://x.example", {}, f"{OUTSIDE}:Timeless"), unopened())


def test_a_publisher_that_needs_no_browser_starts_none() -> None:
    port = MemoryPort(settings={"http": {"allowed_hosts": []}})
    with PublisherClients(make_context(port).clients) as clients:
        assert clients.http is clients.http
        assert clients.evidence() is None
    assert [payload["name"] for verb, payload in port.calls if verb == "client.settings"] == ["http"]


def test_all_that_a_publisher_s_author_needs_is_public() -> None:
    from actors import pages

    assert {"Post", "PublicPost", "Publisher", "PublisherClients", "Target", "SessionState"} <= set(actors.__all__)
    assert {"LoginRequired", "PublishFailed", "ProviderError", "UnsafeUrl"} <= set(actors.__all__)
    for module in (actors, pages):
        assert list(module.__all__) == sorted(module.__all__)
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
