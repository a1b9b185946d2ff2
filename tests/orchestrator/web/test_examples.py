"""The description's examples: every call has them, and each fits the schema beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from orchestrator.web.api.openapi import build
from orchestrator.web.app import ROUTES
from orchestrator.web.http.problems import PROBLEM_JSON, PROBLEMS

DOCUMENT = build(ROUTES, "1")
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]
#: What no example can say better: a file as it is, and this very document.
WITHOUT = {("/v1/artifacts/{id}", "get"), ("/openapi.json", "get")}


def check(schema: dict[str, Any], example: Any) -> None:
    whole = {**schema, "components": {"schemas": DOCUMENT["components"]["schemas"]}}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(example)


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body of a call: what is sent, and each good answer."""
    if "requestBody" in operation:
        yield "request", operation["requestBody"]["content"]
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        if content and PROBLEM_JSON not in content:
            yield status, content


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_call_has_an_example_of_each_body_that_fits(path: str, method: str) -> None:
    for which, content in bodies(DOCUMENT["paths"][path][method]):
        for media_type, media in content.items():
            if (path, method) in WITHOUT:
                continue
            assert "example" in media, f"{method} {path}: write an example of {which} in example_answers.py"
            check(media["schema"], media["example"])
            assert media_type == "application/json" or isinstance(media["example"], str)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_error_has_an_example_for_each_of_its_codes(path: str, method: str) -> None:
    for status, answer in DOCUMENT["paths"][path][method]["responses"].items():
        for media in [media for name, media in answer.get("content", {}).items() if name == PROBLEM_JSON]:
            for code, reference in media["examples"].items():
                example = DOCUMENT["components"]["examples"][reference["$ref"].rsplit("/", 1)[1]]["value"]
                assert (example["code"], str(example["status"])) == (code, status)
                check(media["schema"], example)


def test_no_code_is_without_an_example() -> None:
    assert set(DOCUMENT["components"]["examples"]) == set(PROBLEMS)


def test_parameters_have_examples_that_fit() -> None:
    for path, method in OPERATIONS:
        for parameter in DOCUMENT["paths"][path][method].get("parameters", ()):
            if "example" in parameter:
                check(parameter["schema"], parameter["example"])
            assert parameter["in"] == "query" or "example" in parameter, (path, parameter)


def test_links_lead_to_calls_and_fill_their_path() -> None:
    by_id = {operation["operationId"]: operation for item in DOCUMENT["paths"].values() for operation in item.values()}
    links = [
        link
        for operation in by_id.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert links
    for link in links:
        names = {each["name"] for each in by_id[link["operationId"]]["parameters"] if each["in"] == "path"}
        assert names == set(link["parameters"])
