"""Code, documents and messages do not use the words that `plain_words` lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance import plain_words


def test_no_file_uses_a_listed_word() -> None:
    assert list(map(str, plain_words.findings())) == []


def test_each_exception_is_needed() -> None:
    assert [each for each in plain_words.ALLOWED if not plain_words.is_needed(each)] == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.py", "def _tell_redis(): ...\n", ["_tell_redis"]),
        ("a.py", "# It is told of the\n# interpreter's lock.\nvalue = 1\n", ["told", "interpreter's lock"]),
        ("a.py", '"""The long way,\nwhich lets the lease go."""\n', ["lets the lease go", "long way"]),
        ("a.py", 'ANSWER = {"told": 1, "text": "who told you"}\n', ["told"]),
        ("a.lua", "-- It tells what holds.\nlocal stray = 1\n", ["tells", "stray"]),
        ("a.md", "Nobody looks at it any more. `told` is a field.\n", ["Nobody looks at it any more"]),
        ("a.py", "folder = retold + 'untold'\n", []),
    ],
)
def test_words_are_found_in_names_and_prose(name: str, text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert sorted(each.word for each in plain_words.in_file(name, tmp_path)) == sorted(words)
