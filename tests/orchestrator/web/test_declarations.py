"""A step gets what its `@step` declares: the worker's end of its port refuses the rest, naming the missing word."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

import actors.pipelines.blog
import actors.pipelines.webhook
from actors import StepContext, step
from actors.declarations import CLIENT_NAMES, Declaration
from actors.errors import InvalidCall, NotDeclared, ProviderError
from orchestrator.runtime import Runtime
from tenants.errors import OnelaneError
from tests.orchestrator.web.conftest import Bench
from tests.support.ports import EVERYTHING, step_port

#: What every step may do.
FREE = {"cancelled", "artifact.save", "step.enter"}
#: What the worker refuses by the pipeline's name; see `tests/orchestrator/web/test_webhooks.py`.
OF_WEBHOOKS = {"callback.load", "callback.answered"}
#: Each word, and a call that needs it.
NEEDED = [
    ({"clients": {"gemini"}}, "client.settings", {"name": "text_model"}),
    ({"clients": {"gemini"}}, "usage.add", {"tokens_in": 1}),
    ({"clients": {"browser"}}, "client.settings", {"name": "browser"}),
    ({"clients": {"http"}}, "client.settings", {"name": "http"}),
    ({"session": True}, "session.load", {}),
    ({"session": True}, "session.save", {"storage_state": {}}),
    ({"session": True}, "session.login_required", {"reason": "over"}),
    ({"drafts": True}, "draft.create", {"title": "t", "body": "b", "tags": []}),
    ({"drafts": True}, "draft.load", {}),
    ({"publication": True}, "target.load", {}),
    ({"publication": True}, "publication.open", {"publisher": "demo", "base_url": "http://127.0.0.1"}),
    ({"publication": True}, "publication.started", {"version": 1}),
    ({"publication": True}, "publication.absent", {}),
    ({"publication": True}, "publication.confirmed", {"url": "http://127.0.0.1"}),
    ({"publication": True}, "publication.unknown", {"reason": "?"}),
]


def declared(**words: Any) -> Declaration:
    @step(lane="generate", time_limit=10, **words)
    def write(ctx: StepContext[Any]) -> dict[str, Any]:
        return {}

    return write.uses


@pytest.fixture
def port_with(runtime: Runtime, bench: Bench, new_job: Callable[..., dict[str, Any]]) -> Callable[[Declaration], Any]:
    owned = bench.start(new_job())
    return lambda uses: step_port(runtime, owned, uses)


@pytest.mark.parametrize(("words", "call", "payload"), NEEDED, ids=[f"{words}-{call}" for words, call, _ in NEEDED])
def test_a_call_is_refused_without_its_word(
    port_with: Callable[[Declaration], Any], words: dict[str, Any], call: str, payload: dict[str, Any]
) -> None:
    # Given a step that declares everything but the word
    ((word, value),) = words.items()
    others: Any = EVERYTHING.clients - set(value) if word == "clients" else False
    lacking = replace(EVERYTHING, **{word: others})
    # When it makes the call, then the error names the step and the argument to add
    with pytest.raises(NotDeclared) as refused:
        port_with(lacking).call(call, payload)
    argument = f'clients={{"{next(iter(value))}"}}' if word == "clients" else f"{word}=True"
    assert str(refused.value) == (
        f"step 'sample.write' called {call!r} without declaring it: add {argument} to its @step(...)"
    )
    assert refused.value.permanent
    # And with the word alone, it is not refused for that
    with suppress(OnelaneError, ProviderError, InvalidCall):  # such as: no text model is set up here
        port_with(declared(**words)).call(call, payload)


def test_no_call_is_forgotten(port_with: Callable[[Declaration], Any]) -> None:
    port = port_with(Declaration())
    free = set()
    for verb in port._verbs:
        try:
            port.call(verb, {"name": "text_model"})
        except NotDeclared:
            continue
        except InvalidCall:
            pass
        free.add(verb)
    assert free == FREE | OF_WEBHOOKS
    assert {call for _, call, _ in NEEDED} == set(port._verbs) - free


def test_the_built_in_steps_declare_only_what_they_use() -> None:
    assert actors.pipelines.blog.generate.uses == declared(clients={"gemini"}, drafts=True)
    assert actors.pipelines.blog.publish.uses == declared(
        clients={"browser", "http"}, session=True, drafts=True, publication=True
    )
    assert actors.pipelines.webhook.deliver.uses == declared()


def test_a_wrong_word_is_named_when_the_step_is_declared() -> None:
    with pytest.raises(ValueError, match=r"step 'write': clients has 'gemin'; known are browser, gemini, http"):
        declared(clients={"gemin"})
    with pytest.raises(ValueError, match=r"step 'write': clients='gemini' must be a set of names"):
        declared(clients="gemini")
    assert declared(clients=list(CLIENT_NAMES)).clients == CLIENT_NAMES
