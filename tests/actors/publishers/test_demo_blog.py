"""The demo blog behaves as a real site does: sign-in, CSRF, sessions that end, bounds, and nothing lost by kill -9."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from orchestrator.demo_blog.app import create_app
from orchestrator.demo_blog.faults import Faults
from orchestrator.demo_blog.store import BlogStore
from tests.support.servers import free_port

PASSWORD = "a long enough password"
CONTROL = {"x-demo-blog-control": "1"}


@pytest.fixture
def store(tmp_path: Path) -> BlogStore:
    store = BlogStore(tmp_path)
    store.create_user("alice", PASSWORD)
    store.create_user("bob", PASSWORD)
    return store


def client_of(folder: Path, host: str = "127.0.0.1", **settings: object) -> TestClient:
    app = create_app(folder, **settings)  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1:8701", client=(host, 50000), raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path: Path, store: BlogStore) -> TestClient:
    return client_of(tmp_path)


def field(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found, f"no field {name} in {html[:500]}"
    return found.group(1)


def sign_in(client: TestClient, username: str = "alice", password: str = PASSWORD) -> httpx.Response:
    token = field(client.get("/-/sign-in").text, "form_token")
    return client.post("/-/sign-in", data={"form_token": token, "username": username, "password": password})


def write(client: TestClient, **fields: str) -> httpx.Response:
    csrf = field(client.get("/-/editor").text, "csrf")
    return client.post("/-/posts", data={"csrf": csrf, "title": "T", "body": "<p>x</p>", "slug": "s", **fields})


def test_who_signs_in_gets_the_editor_and_others_do_not(client: TestClient) -> None:
    assert 'data-page="sign-in"' in client.get("/-/editor").text
    assert 'data-user="alice"' in sign_in(client).text
    assert 'data-user="alice"' in client.get("/-/editor").text


@pytest.mark.parametrize(
    ("username", "password"), [("alice", "wrong password"), ("nobody", PASSWORD), ("", ""), ("alice", "x" * 5000)]
)
def test_a_wrong_sign_in_is_refused_without_saying_what_was_wrong(
    client: TestClient, username: str, password: str
) -> None:
    answer = sign_in(client, username, password)
    assert answer.status_code == 403
    assert "User name or password is wrong." in answer.text
    assert 'data-page="sign-in"' in client.get("/-/editor").text


def test_forms_from_elsewhere_are_refused(client: TestClient, store: BlogStore) -> None:
    forged = client.post("/-/sign-in", data={"form_token": "x", "username": "alice", "password": PASSWORD})
    assert forged.status_code == 403
    sign_in(client)
    assert client.post("/-/posts", data={"title": "T", "csrf": "forged"}).status_code == 403
    assert client.post("/-/posts", data={"title": "T"}).status_code == 403
    assert client.post("/-/posts", json={"title": "T"}).status_code == 415
    assert store.posts() == []


def test_a_post_appears_everywhere_it_should(client: TestClient, store: BlogStore) -> None:
    sign_in(client)
    answer = write(client, title=" A  <b>title</b> ", body="<p onclick=x()>Hi<script>no()</script></p>", tags="a, b,,a")
    assert answer.url.path == "/alice/s"
    (post,) = store.posts("alice")
    assert (post.title, post.body, post.tags) == ("A <b>title</b>", "<p>Hi</p>", ("a", "b"))
    for path in ("/alice/s", "/alice/", "/"):
        page = client.get(path).text
        assert "A &lt;b&gt;title&lt;/b&gt;" in page
        assert "demo blog" in page
    listed = client.get("/-/posts", params={"user": "alice", "marker": "s"}).json()["posts"]
    assert listed == [
        {"id": 1, "url": "http://127.0.0.1:8701/alice/s", "slug": "s", "marker": "s", "title": "A <b>title</b>"}
    ]
    assert client.get("/-/posts", params={"user": "bob", "marker": "s"}).json()["posts"] == []


def test_a_taken_slug_gets_a_number_so_that_doubles_show(client: TestClient, store: BlogStore) -> None:
    sign_in(client)
    for _ in range(3):
        write(client, slug="onelane-1")
    assert [post.slug for post in store.posts("alice")] == ["onelane-1-3", "onelane-1-2", "onelane-1"]
    assert len(store.posts("alice", marker="onelane-1")) == 3


def test_bad_posts_are_refused(client: TestClient, store: BlogStore) -> None:
    sign_in(client)
    assert write(client, title="  ").status_code == 422
    assert write(client, title="x" * 501).status_code == 422
    assert write(client, body="x" * (8 * 1024 * 1024 + 1)).status_code == 413
    assert write(client, slug="../../-/Ümläut?").url.path == "/alice/ml-ut"
    assert len(store.posts()) == 1


def test_sessions_end_by_time_and_by_hand(tmp_path: Path, store: BlogStore) -> None:
    client = client_of(tmp_path, session_seconds=0.0)
    assert 'data-page="sign-in"' in sign_in(client).text
    client = client_of(tmp_path)
    sign_in(client)
    store.end_sessions("alice")
    assert 'data-page="sign-in"' in client.get("/-/editor").text
    sign_in(client)
    csrf = field(client.get("/-/editor").text, "csrf")
    client.post("/-/sign-out", data={"csrf": csrf})
    assert 'data-page="sign-in"' in client.get("/-/editor").text


@pytest.mark.parametrize("path", ["/nobody/", "/alice/nothing", "/-/nothing", "/alice", "/../etc/passwd", "/-/faults"])
def test_what_is_not_there_is_a_page_of_its_own(client: TestClient, path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert answer.status_code in (404, 307)
    assert answer.status_code == 307 or "text/html" in answer.headers["content-type"]


def test_pages_carry_a_strict_policy(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_control_calls_are_for_this_machine_and_never_for_a_web_page(tmp_path: Path, store: BlogStore) -> None:
    wanted = {"username": "carol", "password": PASSWORD}
    assert client_of(tmp_path, "203.0.113.9").post("/-/users", json=wanted, headers=CONTROL).status_code == 404
    client = client_of(tmp_path)
    assert client.post("/-/users", json=wanted).status_code == 404
    assert client.post("/-/users", json=wanted, headers={**CONTROL, "x-forwarded-for": "1.2.3.4"}).status_code == 404
    assert store.blog("carol") is None
    assert client.post("/-/users", json=wanted, headers=CONTROL).status_code == 201
    assert client.post("/-/users", json=wanted, headers=CONTROL).status_code == 200
    for wrong in ({}, {"username": "A b", "password": PASSWORD}, {"username": "dave", "password": "short"}, [1]):
        assert client.post("/-/users", json=wrong, headers=CONTROL).status_code == 422
    assert client.post("/-/users", content=b"{", headers=CONTROL).status_code == 400
    assert client.post("/-/faults", json={"kind": "error_after"}, headers=CONTROL).status_code in (404, 405)


def test_faults_are_set_only_where_they_are_enabled(tmp_path: Path, store: BlogStore) -> None:
    faults = Faults()
    client = client_of(tmp_path, faults=faults)
    wanted = {"kind": "error_after", "user": "alice"}
    assert client.post("/-/faults", json=wanted, headers=CONTROL).json() == {"waiting": 1}
    assert client.post("/-/faults", json={"kind": "nonsense"}, headers=CONTROL).status_code == 422
    assert client.post("/-/faults", json={"kind": "error_after", "what": 1}, headers=CONTROL).status_code == 422
    sign_in(client, "bob")
    assert write(client).status_code == 200
    client = client_of(tmp_path, faults=faults)
    sign_in(client)
    assert write(client).status_code == 500
    assert len(store.posts("alice")) == 1
    assert faults.waiting() == []


def test_many_writers_lose_and_double_nothing(store: BlogStore) -> None:
    def add(number: int) -> None:
        for _ in range(10):
            store.add_post("alice", "same", f"by {number}", "", ())

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slugs = {post.slug for post in store.posts("alice")}
    assert slugs == {"same", *(f"same-{number}" for number in range(2, 41))}


def test_a_new_password_replaces_the_old_one_and_is_never_kept_plain(tmp_path: Path, store: BlogStore) -> None:
    assert store.password_fits("alice", PASSWORD)
    assert not store.create_user("alice", "another long password")
    assert store.password_fits("alice", "another long password")
    assert not store.password_fits("alice", PASSWORD)
    token = store.open_session("alice")
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"another long password" not in kept
    assert token.encode() not in kept


@pytest.mark.processes
def test_what_was_answered_survives_kill_9(tmp_path: Path, store: BlogStore) -> None:
    port = free_port()
    command = [sys.executable, "-m", "orchestrator.demo_blog", "--data-dir", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=60) as client:
            until = time.monotonic() + 60
            while True:
                try:
                    client.get("/-/healthz").raise_for_status()
                    break
                except httpx.TransportError:
                    assert process.poll() is None, "the demo blog ended by itself"
                    assert time.monotonic() < until, "the demo blog did not start in a minute"
                    time.sleep(0.05)
            token = field(client.get("/-/sign-in").text, "form_token")
            client.post("/-/sign-in", data={"form_token": token, "username": "alice", "password": PASSWORD})
            csrf = field(client.get("/-/editor").text, "csrf")
            assert client.post("/-/posts", data={"csrf": csrf, "title": "T", "slug": "kept"}).status_code == 200
            process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(60)
    assert [post.slug for post in BlogStore(tmp_path).posts("alice")] == ["kept"]
