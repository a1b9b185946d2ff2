"""A job's artifacts: who sees them, what a signed address opens, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.runtime import Runtime
from orchestrator.web.http.signed_urls import AddressSigner
from tests.orchestrator.web.artifacts import PICTURE, save
from tests.orchestrator.web.conftest import ON_BOTH, SECRET_KEY, Api, Bench


@pytest.fixture
def job(runtime: Runtime, bench: Bench, new_job: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A job whose step left a picture and a page behind."""
    made = new_job()
    owned = bench.start(made)
    save(runtime, owned, "publish-failure.png", "image/png", PICTURE)
    save(runtime, owned, 'a"b\r\n.html', "text/html\r\nX-Evil: 1", b"<script>alert(1)</script>")
    bench.fail(owned)
    return made


def listed(api: Api, job: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    return items


@ON_BOTH
def test_artifacts_are_listed_and_opened_without_a_key(api: Api, job: dict[str, Any]) -> None:
    picture, _ = listed(api, job)
    assert (picture["name"], picture["content_type"], picture["size"]) == ("publish-failure.png", "image/png", 28)
    assert picture["step"] == "write"
    opened = api.with_key(None).get(picture["url"])
    assert (opened.status_code, opened.content) == (200, PICTURE)
    assert opened.headers["content-type"] == "image/png"
    assert opened.headers["content-disposition"].startswith("inline")


def test_what_a_stranger_wrote_is_not_shown_as_a_page(api: Api, job: dict[str, Any]) -> None:
    opened = api.with_key(None).get(listed(api, job)[1]["url"])
    assert opened.headers["content-type"] == "application/octet-stream"
    assert opened.headers["content-disposition"] == "attachment; filename*=UTF-8''a%22b%0D%0A.html"
    assert "sandbox" in opened.headers["content-security-policy"]
    assert "x-evil" not in opened.headers


def test_an_address_that_was_changed_or_has_ended_is_403(api: Api, job: dict[str, Any]) -> None:
    one, other = (each["url"] for each in listed(api, job))
    path, _, query = one.partition("?")
    nobody = api.with_key(None)
    for url in (
        f"{path}?{query}x",
        f"{path}?{other.partition('?')[2]}",
        one.replace("expires=", "expires=9"),
        AddressSigner([SECRET_KEY], clock=lambda: 1_700_000_000.0).sign(path, seconds=900),
        AddressSigner(["a key of somebody else, long enough"]).sign(path, seconds=900),
    ):
        answer = nobody.get(url)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), url
    assert nobody.get(path).status_code == 422
    assert nobody.get(AddressSigner([SECRET_KEY]).sign("/v1/artifacts/nope", seconds=9)).status_code == 404


def test_an_address_of_the_secret_key_before_is_taken() -> None:
    before, after = AddressSigner(["old" * 9]), AddressSigner(["new" * 9, "old" * 9])
    expires, signature = (each.partition("=")[2] for each in before.sign("/x", seconds=60).partition("?")[2].split("&"))
    assert after.is_valid("/x", int(expires), signature)
    assert not before.is_valid("/x", int(expires) + 1, signature)


def test_a_file_that_is_gone_is_404(api: Api, runtime: Runtime, job: dict[str, Any]) -> None:
    url = listed(api, job)[0]["url"]
    for file in (runtime.settings.data_dir / "artifacts").rglob("*"):
        if file.is_file():
            file.unlink()
    answer = api.with_key(None).get(url)
    assert answer.status_code == 404
    assert str(runtime.settings.data_dir) not in answer.text, "no path of the server leaves"


def test_artifacts_are_the_accounts_own(api: Api, job: dict[str, Any], make_key: Callable[..., str]) -> None:
    assert len(listed(api.with_key(make_key("acme")), job)) == 2
    assert api.with_key(make_key("other")).get(f"/v1/jobs/{job['id']}/artifacts").status_code == 404
