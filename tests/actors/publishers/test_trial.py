"""A publisher's trial: every promise of the protocol is checked, and the command tries a real one without a job."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from actors import Draft, LoginRequired, Post, ProviderError, PublicPost, SessionState
from actors.markdown import plain_text, render
from actors.publisher_trial import Stage, Trial
from orchestrator.cli.app import run
from tenants.database.models import Job, Publication
from tenants.database.transactions import Database
from tenants.secrets.sealing import Sealer, new_key, split_keys
from tenants.secrets.sessions import Sessions
from tenants.store.accounts import accounts
from tests.actors.publishers.demo_site import PASSWORD, DemoBlog


class Honest:
    """A publisher that keeps its posts in memory and does all that the protocol says."""

    name: ClassVar[str] = "honest"
    settle_seconds = 0.0
    find_is_reliable = True

    def __init__(self) -> None:
        self.posts: dict[str, Draft] = {}

    def ensure_session(self, session: SessionState) -> SessionState | None:
        return None

    def find(self, marker: str) -> Post | None:
        return Post(f"https://x.example/{marker}", None) if marker in self.posts else None

    def publish(self, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
        before_submit()
        self.posts[marker] = draft
        return Post(f"https://x.example/{marker}", None)

    def read_back(self, url: str) -> PublicPost:
        draft = self.posts[url.rpartition("/")[2]]
        return PublicPost(draft.title, plain_text(render(draft.body)))


class Removing(Honest):
    def remove(self, post: Post) -> None:
        self.posts.pop(post.url.rpartition("/")[2], None)


def stages(publisher: Any, **options: Any) -> list[Stage]:
    trial = Trial(publisher, SessionState(None, None), pause=lambda seconds: None, **options)
    return list(trial.run())


def test_an_honest_publisher_passes_and_its_post_is_removed_if_it_can_be() -> None:
    assert [(each.name, each.ok) for each in stages(Honest())] == [
        ("session", True),
        ("find", True),
        ("publish", True),
        ("read back", True),
        ("find again", True),
    ]
    publisher = Removing()
    assert stages(publisher)[-1].name == "remove"
    assert publisher.posts == {}
    assert stages(publisher, keep=True)[-1].name == "find again"
    assert len(publisher.posts) == 1


def breaking(**methods: Any) -> Any:
    return type("Broken", (Removing,), methods)()


def publish_twice(self: Any, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
    before_submit()
    return Honest.publish(self, draft, marker, before_submit)


def publish_unseen(self: Any, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
    return Honest.publish(self, draft, marker, lambda: None)


def publish_and_fail(self: Any, draft: Draft, marker: str, before_submit: Callable[[], None]) -> Post:
    Honest.publish(self, draft, marker, before_submit)
    raise ProviderError("502 after the post was made")


def sign_nobody_in(self: Any, session: SessionState) -> SessionState | None:
    raise LoginRequired("no credentials")


@pytest.mark.parametrize(
    ("publisher", "stage", "words"),
    [
        (breaking(ensure_session=sign_nobody_in), "session", "login_required"),
        (breaking(find=lambda self, marker: Post("https://x.example/other", None)), "find", "must give None"),
        (breaking(publish=publish_twice), "publish", "2 times"),
        (breaking(publish=publish_unseen), "publish", "0 times"),
        (breaking(publish=publish_and_fail), "publish", "502"),
        (breaking(read_back=lambda self, url: PublicPost("Hello", "")), "read back", "not the draft"),
        (breaking(find=lambda self, marker: None), "find again", "publish it twice"),
        (breaking(remove=lambda self, post: None), "remove", "still sees"),
    ],
)
def test_what_breaks_a_promise_is_named_at_its_stage(publisher: Any, stage: str, words: str) -> None:
    found = stages(publisher)
    (failed,) = [each for each in found if not each.ok]
    assert failed.name == stage
    assert words in failed.detail
    if stage in ("publish", "read back"):
        assert publisher.posts == {}, "what the trial has published is removed also when a stage fails"


def test_a_publisher_that_says_that_it_may_miss_posts_may_miss_one() -> None:
    publisher = breaking(find=lambda self, marker: None)
    publisher.find_is_reliable = False
    assert all(each.ok for each in stages(publisher))


@pytest.fixture
def folder(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chromium: str) -> Path:
    """A data directory with a database, as an `up` leaves it."""
    shutil.copy(sqlite_template, tmp_path / "onelane.db")
    monkeypatch.setenv("ONELANE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ONELANE_SECRET_KEY", new_key())
    monkeypatch.setenv("ONELANE_CHROMIUM", chromium)
    return tmp_path


def test_the_command_tries_the_demo_blog_without_a_job(
    folder: Path, demo_blog: DemoBlog, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given an account with credentials at a real blog
    demo_blog.store.create_user(name, PASSWORD)
    monkeypatch.setenv("ONELANE_ALLOWED_HOSTS", demo_blog.host)
    database = Database(f"sqlite:///{folder}/onelane.db", pool_size=2)
    secret = SecretStr(os.environ["ONELANE_SECRET_KEY"])
    sessions = Sessions(database, Sealer(split_keys(secret.get_secret_value())))
    sessions.put(name, storage_state=None, credentials={"username": name, "password": PASSWORD})
    # Without a target it says what lacks, with another's target too
    assert run(["publishers", "try", "demo", "--account", name]) == 1
    assert "has no target" in capsys.readouterr().err
    target = {"publisher": "wordpress", "base_url": demo_blog.url, "options": {}}
    database.write(lambda connection: accounts.put_target(connection, name, target))
    assert run(["publishers", "try", "demo", "--account", name]) == 1
    assert "'wordpress' and not with 'demo'" in capsys.readouterr().err
    assert run(["publishers", "try", "nobody", "--account", name]) == 1
    assert "onelane publishers list" in capsys.readouterr().err
    # When the demo publisher is tried
    database.write(lambda connection: accounts.put_target(connection, name, {**target, "publisher": "demo"}))
    assert run(["publishers", "try", "demo", "--account", name, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    # Then there is one post, no job, no entry in the ledger, and the session is kept
    assert [each["name"] for each in report["stages"]] == ["session", "find", "publish", "read back", "find again"]
    assert report["ok"]
    assert len(demo_blog.store.posts(name)) == 1
    assert report["url"].startswith(demo_blog.url)
    assert report["marker"] in report["url"]
    rows = select(
        select(func.count()).select_from(Job.__table__).scalar_subquery(),
        select(func.count()).select_from(Publication.__table__).scalar_subquery(),
    )
    assert database.read(lambda connection: tuple(connection.execute(rows).one())) == (0, 0)
    opened = sessions.load(name)
    assert opened is not None
    assert opened.storage_state is not None
    # And the second time it need not sign in
    assert run(["publishers", "try", "demo", "--account", name, "--base-url", demo_blog.url]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the session is valid" in said
    assert run(["publishers", "try", "demo", "--account", name, "--base-url", demo_blog.url + "/nowhere"]) == 1
    database.close()


def test_the_list_names_all_and_what_each_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONELANE_PUBLISHERS", "tests.actors.publishers.outside_publishers:Right")
    assert run(["publishers", "list", "--json"]) == 0
    items = {each["publisher"]: each for each in json.loads(capsys.readouterr().out)["items"]}
    assert items["right"]["capabilities"] == ["remove"]
    assert items["right"]["from"] == "ONELANE_PUBLISHERS"
    assert {"demo", "wordpress"} <= set(items)
    monkeypatch.setenv("ONELANE_PUBLISHERS", "no.such:Thing")
    assert run(["publishers", "list"]) == 4
    assert "ONELANE_PUBLISHERS: 'no.such:Thing' cannot be loaded" in capsys.readouterr().err
