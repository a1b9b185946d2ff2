"""The demo's parts: which files become posts, and what counts as proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.proof import blog_report, most_at_once, overlaps, queue_reports, spans_of
from orchestrator.demo.texts import ACCOUNTS, NoTexts, read_texts
from orchestrator.demo_blog.store import BlogStore
from tenants.account import parse_account


def test_texts_are_the_folders_own_md_and_txt_files(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("---\n# Why *lanes*?\nBecause.")
    (tmp_path / "a-plain_note.txt").write_text("No heading here.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.md").write_text("# Deeper")
    texts, skipped = read_texts(tmp_path)
    assert [(text.name, text.title) for text in texts] == [("a-plain_note.txt", "a plain note"), ("b.md", "Why lanes?")]
    assert skipped == []


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Good\ntext")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    (tmp_path / "null.txt").write_bytes(b"a\0b")
    _, skipped = read_texts(tmp_path)
    assert {each.name: each.reason for each in skipped} == {
        "empty.md": "it is empty",
        "latin.txt": "it is not UTF-8 text",
        "null.txt": "it holds a null character, so it is no text",
    }


@pytest.mark.parametrize("name", ["nothing", "file", "bare"])
def test_a_folder_without_texts_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "bare").mkdir()
    with pytest.raises(NoTexts, match=name):
        read_texts(tmp_path / name)


def test_a_text_keeps_its_key_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("# One")
    before = read_texts(tmp_path)[0][0].key
    assert read_texts(tmp_path)[0][0].key == before
    path.write_text("# Two")
    assert read_texts(tmp_path)[0][0].key != before


def test_long_texts_fit_the_pipelines_bounds(tmp_path: Path) -> None:
    from actors.pipelines.blog import BlogInput

    (tmp_path / "long.md").write_text("# " + "Long " * 200 + "\n" + "word " * 200_000)
    (text,), _ = read_texts(tmp_path)
    for account in ACCOUNTS:
        assert len(BlogInput.model_validate(account.input(text)).sources) == 3


def test_account_ids_are_valid_and_unlike() -> None:
    ids = [parse_account(each.account) for each in ACCOUNTS]
    assert len(set(ids)) == 5
    assert len({each.username for each in ACCOUNTS}) == 5
    assert len({each.lower() for each in ids}) == 4, "two differ in their case alone"
    assert len({each.password("s" * 40) for each in ACCOUNTS}) == 5


def span(start: int, end: int) -> dict[str, Any]:
    return {"started_at": f"2026-01-01T00:00:{start:02}+00:00", "finished_at": f"2026-01-01T00:00:{end:02}+00:00"}


@pytest.mark.parametrize(
    ("attempts", "count", "most"),
    [
        ([span(0, 5), span(5, 9)], 0, 1),
        ([span(0, 5), span(4, 9)], 1, 2),
        ([span(0, 20), span(1, 2), span(3, 4)], 2, 2),
        ([span(0, 9), span(1, 9), span(2, 9)], 2, 3),
        ([{**span(0, 5), "finished_at": None}, span(1, 3)], 0, 1),
        ([], 0, 0),
    ],
)
def test_overlaps_are_counted(attempts: list[dict[str, Any]], count: int, most: int) -> None:
    spans = spans_of(attempts)
    assert (overlaps(spans), most_at_once(spans)) == (count, most)


def test_a_queue_report_takes_one_lane_of_one_account() -> None:
    def step(lane: str, *attempts: dict[str, Any]) -> dict[str, Any]:
        return {
            "lane": lane,
            "queued_at": "2026-01-01T00:00:00+00:00",
            "attempts": [{**each, "outcome": "completed"} for each in attempts],
        }

    jobs = [
        {"account": "a", "steps": [step("generate", span(1, 3)), step("publish", span(3, 6))]},
        {"account": "a", "steps": [step("generate", span(2, 4)), step("publish")]},
        {"account": "b", "steps": [step("generate", span(1, 9))]},
    ]
    reports = {each.queue: each for each in queue_reports(jobs)}
    assert set(reports) == {"generate_a", "generate_b", "publish_a"}
    assert reports["generate_a"].overlaps == 1
    assert reports["generate_a"].busy_seconds == 4
    assert reports["generate_a"].longest_wait_seconds == 2
    assert (reports["publish_a"].steps, reports["publish_a"].overlaps) == (1, 0)


def test_the_blogs_own_count_reports_missing_doubled_and_unknown_posts(tmp_path: Path) -> None:
    account = ACCOUNTS[0]
    blog = BlogStore(tmp_path)
    blog.create_user(account.username, "long enough")
    first = blog.add_post(account.username, "marker-1", "One", "<p>1</p>", ())
    good = blog_report(account, blog, [f"http://127.0.0.1:8701{first.path}"])
    assert good.exactly_once
    assert (good.expected, good.found) == (1, 1)

    again = blog.add_post(account.username, "marker-1", "One", "<p>1</p>", ())
    bad = blog_report(account, blog, [f"http://127.0.0.1:8701{first.path}", "http://127.0.0.1:8701/acme/gone"])
    assert not bad.exactly_once
    assert bad.missing == ("/acme/gone",)
    assert bad.doubled == ("marker-1",)
    assert bad.unknown == (again.path,)
