"""The page `/docs` in a real browser: how to begin, one view a resource, and calls that are made from it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from orchestrator.settings import installed_chromium
from tests.orchestrator.web.conftest import ADMIN_KEY

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def docs(address: tuple[str, int]) -> Iterator[Page]:
    """The page, open; nothing may be said in the browser's console but failed calls."""
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(installed_chromium()), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto("http://{}:{}/docs".format(*address))
        expect(page.locator("#state")).to_have_count(0)
        yield page
        browser.close()
    assert [each for each in said if "the server responded with a status of 4" not in each] == []


def picture(page: Page, name: str) -> None:
    """Kept where `DOCS_PICTURES` names a folder, for a person who looks at the page."""
    folder = os.environ.get("DOCS_PICTURES")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png")


def test_the_page_begins_with_authentication_and_a_first_call(docs: Page, address: tuple[str, int]) -> None:
    start = docs.locator("#start")
    headings = start.locator("h1, h2").all_inner_texts()
    assert headings[:3] == ["The onelane HTTP API", "Authenticate", "Make a first call"]
    assert "Authorization: Bearer KEY" in start.inner_text()
    assert "curl -X POST http://{}:{}/v1/accounts/acme/jobs".format(*address) in start.inner_text()
    assert docs.locator("main > section:visible").count() == 1
    picture(docs, "start-wide")


def test_each_resource_has_a_view_and_each_call_an_address(docs: Page) -> None:
    names = docs.locator("#resources dt").all_inner_texts()
    assert names[:4] == ["Jobs", "Events", "Drafts", "Schedules"]
    docs.locator("#nav").get_by_role("link", name="Schedules", exact=True).click()
    expect(docs.locator("main > section:visible h1")).to_have_text("Schedules")
    assert docs.locator("main article:visible").count() == 8
    assert docs.title() == "Schedules · onelane HTTP API"
    picture(docs, "schedules-wide")
    docs.go_back()
    expect(docs.locator("#start")).to_be_visible()
    docs.locator("#filter").fill("why")
    docs.locator("#nav li:visible a").first.click()
    expect(docs.locator("#get_v1_jobs_id_why")).to_be_in_viewport()
    docs.reload()
    expect(docs.locator("#get_v1_jobs_id_why")).to_be_in_viewport()


def test_a_call_is_tried_with_the_key_of_the_page(docs: Page) -> None:
    docs.locator("#nav").get_by_role("link", name="Jobs", exact=True).click()
    listing = docs.locator("#get_v1_jobs")
    listing.get_by_text("Try this call").click()
    send = listing.get_by_role("button", name="Send GET")
    send.click()
    expect(listing.locator(".result")).to_contain_text("401")
    docs.locator("#key").fill(ADMIN_KEY)
    making = docs.locator("#post_v1_accounts_account_jobs")
    making.get_by_text("Try this call").click()
    making.get_by_label("account", exact=True).fill("a/b:<b>c</b>")
    making.get_by_label("Body", exact=True).fill('{"pipeline": "sample", "input": {"topic": "<script>lanes</script>"}}')
    making.get_by_role("button", name="Send POST").click()
    expect(making.locator(".result")).to_contain_text("202")
    expect(making.locator(".result")).to_contain_text('"account": "a/b:<b>c</b>"')
    listing.get_by_label("account", exact=True).fill("a/b:<b>c</b>")
    send.click()
    expect(listing.locator(".result")).to_contain_text("200")
    expect(listing.locator(".result")).to_contain_text('"pipeline": "sample"')
    assert docs.locator(".result script, .result b").count() == 0
    making.locator(".trial").scroll_into_view_if_needed()
    picture(docs, "tried-wide")
    docs.set_viewport_size({"width": 390, "height": 844})
    assert docs.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it fits a narrow screen"
    picture(docs, "tried-narrow")
    docs.emulate_media(color_scheme="dark")
    docs.goto(docs.url.partition("#")[0] + "#start")
    picture(docs, "start-narrow-dark")


def test_a_stream_is_shown_as_it_comes_and_can_be_stopped(docs: Page) -> None:
    docs.locator("#key").fill(ADMIN_KEY)
    docs.goto(docs.url + "#get_v1_accounts_account_events")
    events = docs.locator("#get_v1_accounts_account_events")
    events.get_by_text("Try this call").click()
    making = docs.request.post(
        docs.url.partition("/docs")[0] + "/v1/accounts/acme/jobs",
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        data={"pipeline": "sample", "input": {"topic": "lanes"}},
    )
    assert making.status == 202
    events.get_by_role("button", name="Send GET").click()
    expect(events.locator(".result")).to_contain_text("event: snapshot")
    events.get_by_role("button", name="Stop").click()
    expect(events.locator(".result")).to_contain_text("Stopped.")
