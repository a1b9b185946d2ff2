"""`onelane.testing` holds a step to what a worker holds it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from actors import StepContext, step
from actors.errors import InvalidCall, LoginRequired, NotDeclared
from actors.step import MAX_OUTPUT_BYTES, Step
from onelane.testing import MemoryPort, make_context, run_step


class Word(BaseModel):
    word: str


def step_of(function: Callable[[StepContext[Word]], Any], **declared: Any) -> Step:
    def work(ctx: StepContext[Word]) -> Any:
        return function(ctx)

    return step(lane="work", time_limit=10, **declared)(work)


def test_an_output_is_seen_as_later_steps_see_it() -> None:
    assert run_step(step_of(lambda ctx: {"pair": (1, 2), 3: None}), Word(word="x")) == {"pair": [1, 2], "3": None}


@pytest.mark.parametrize("output", ["text", {"x": {1}}, {"x": float("nan")}, {"x": "y" * MAX_OUTPUT_BYTES}])
def test_an_output_that_cannot_be_kept_is_refused(output: Any) -> None:
    with pytest.raises(InvalidCall, match="the step returned"):
        run_step(step_of(lambda ctx: output), Word(word="x"))


def test_what_is_not_declared_is_refused() -> None:
    def load(ctx: StepContext[Word]) -> dict[str, Any]:
        credentials = ctx.session.load().credentials
        return {"user": credentials.username if credentials else None}

    port = MemoryPort(credentials={"username": "ada", "password": "secret"})
    with pytest.raises(NotDeclared, match=r"'test\.work' called 'session\.load'.*add session=True"):
        run_step(step_of(load), Word(word="x"), port)
    assert run_step(step_of(load, session=True), Word(word="x"), port) == {"user": "ada"}
    port.fail["session.load"] = LoginRequired("over")
    with pytest.raises(LoginRequired):
        run_step(step_of(load, session=True), Word(word="x"), port)


def test_a_wrong_input_is_refused() -> None:
    with pytest.raises(ValidationError):
        make_context(Word.model_construct(word=7))  # type: ignore[arg-type]


def test_a_flood_of_lines_is_counted_as_a_worker_does() -> None:
    def flood(ctx: StepContext[Word]) -> dict[str, Any]:
        for _ in range(20_000):
            ctx.log.info(ctx.input.word)
        return {}

    port = MemoryPort()
    run_step(step_of(flood), Word(word="x"), port)
    assert len(port.logs) + port.left_out == 20_000
    assert port.left_out > 0
