"""Text from Gemini through the google-genai SDK, or from the offline model behind the same protocol.

Invariants
- One call is one request. The SDK's retries are off: only the worker counts and delays attempts.
- A call ends within the step's remaining time. The SDK's time-out applies per socket read, so a slow body can exceed
  it; `asyncio.wait_for` bounds the whole call.
- The API key appears in no error and no log line.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import httpx2
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from ..errors import ProviderError, ProviderTimeout
from ..signals import ProviderBusy
from . import gemini_failures
from .json_answers import parse_answer

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")

#: Reserved from the step's time, so that a time-out is reported before the process is killed.
MARGIN_SECONDS = 2.0
#: The time limit of one call.
LONGEST_CALL_SECONDS = 600.0
#: The prefix of the offline model's versions.
OFFLINE_PREFIX = "offline-model"

#: The JSON Schema keywords that Gemini accepts; the others are checked here, after the answer.
_SCHEMA_KEYWORDS = frozenset(
    {"$defs", "$ref", "additionalProperties", "anyOf", "description", "enum", "format", "items", "maxItems", "maximum"}
    | {"minItems", "minimum", "oneOf", "prefixItems", "properties", "propertyOrdering", "required", "title", "type"}
)


@dataclass(frozen=True, slots=True)
class Generation(Generic[T]):
    """A model's answer, checked against the requested schema."""

    value: T
    #: The server's name of the version that answered.
    model: str
    #: True if the offline model answered.
    offline: bool
    tokens_in: int
    #: Answer and thoughts: both are billed.
    tokens_out: int


class TextModel:
    """A text model with one credential. Made per step by `Clients.text_model`."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        remaining_seconds: Callable[[], float],
        report_usage: Callable[[int, int], None] | None = None,
    ) -> None:
        """`settings` are the worker's: `api_key base_url model offline credential busy_seconds`.

        `report_usage` is called with tokens in and out for every answer, even an unusable one: it is billed too.
        """
        #: The configured model name.
        self.model = str(settings["model"])
        #: True if the offline model is configured.
        self.offline = bool(settings["offline"])
        # The SDK requires a key; the offline model needs none.
        self._api_key = settings.get("api_key") or ("offline" if self.offline else "")
        #: Removed from messages. The offline model's key is a word of its messages.
        self._secret = "" if self.offline else self._api_key
        self._base_url = settings.get("base_url")
        self._credential = settings["credential"]
        self._busy_seconds = settings.get("busy_seconds")
        self._remaining_seconds = remaining_seconds
        self._report_usage = report_usage

    def __repr__(self) -> str:
        return f"TextModel(model={self.model!r}, offline={self.offline}, credential={self._credential!r})"

    def generate_json(
        self,
        prompt: str,
        *,
        system: str,
        schema: type[T],
        temperature: float = 0.7,
        max_output_tokens: int | None = None,
    ) -> Generation[T]:
        """Ask once for JSON of the given model.

        Raises:
            ContentBlocked: the prompt or the answer was blocked (permanent).
            OutputTruncated: the answer was cut off.
            ProviderBusy: a quota is used up; no step with this credential should call before `after`.
            ProviderRefused: the key, the model's name or the request is wrong (permanent).
            ProviderTimeout: no complete answer in time.
            ProviderError: unreachable, an error of the server, or an answer that does not match the schema.
        """
        config = types.GenerateContentConfig(
            system_instruction=system,
            temperature=temperature,
            max_output_tokens=max_output_tokens,
            response_mime_type="application/json",
            response_json_schema=wire_schema(schema),
            # Each follow-up would be a second billed request that is not counted.
            automatic_continuation=False,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        response = self._ask(prompt, config)
        usage = response.usage_metadata or types.GenerateContentResponseUsageMetadata()
        tokens_in = usage.prompt_token_count or 0
        tokens_out = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
        if self._report_usage is not None:
            self._report_usage(tokens_in, tokens_out)
        gemini_failures.check_finish(response, self._credential)
        version = response.model_version or self.model
        return Generation(
            value=parse_answer(response.text or "", schema),
            model=version,
            offline=self.offline or version.startswith(OFFLINE_PREFIX),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )

    def _ask(self, prompt: str, config: types.GenerateContentConfig) -> types.GenerateContentResponse:
        if self._busy_seconds:
            # Another step with this credential must wait; a call now would prolong the wait for all of them.
            reason = "the Gemini key is at its limit for now, by the answer to another step"
            raise ProviderBusy(self._busy_seconds, f"gemini:{self._credential}", reason)
        seconds = min(self._remaining_seconds() - MARGIN_SECONDS, LONGEST_CALL_SECONDS)
        if seconds <= 0:
            raise ProviderTimeout("the step has no time left to ask the model")
        try:
            return run_bounded(lambda: self._request(prompt, config, seconds), seconds)
        except errors.APIError as error:
            mapped: Exception = gemini_failures.from_http(
                error, model=self.model, credential=self._credential, secret=self._secret, now=datetime.now(UTC)
            )
        except (TimeoutError, httpx2.TimeoutException):
            mapped = ProviderTimeout(f"{self._name()} did not answer in {seconds:.0f} s")
        except (httpx2.HTTPError, OSError) as error:
            mapped = ProviderError(f"{self._name()} cannot be reached: {self._scrub(error)}")
        except Exception as error:  # what the SDK raises for a malformed body is not documented
            mapped = ProviderError(f"{self._name()} gave an answer that is not its protocol: {self._scrub(error)}")
        # Outside the handlers and without a cause: the SDK's errors quote whole bodies and requests.
        raise mapped

    async def _request(
        self, prompt: str, config: types.GenerateContentConfig, seconds: float
    ) -> types.GenerateContentResponse:
        options = types.HttpOptions(
            base_url=self._base_url,
            timeout=max(1, int(seconds * 1000)),
            # A proxy of the environment could not reach our loopback address.
            async_client_args={"trust_env": False} if self.offline else None,
        )
        client = genai.Client(vertexai=False, api_key=self._api_key, http_options=options)
        try:
            return await client.aio.models.generate_content(model=self.model, contents=prompt, config=config)
        finally:
            await client.aio.aclose()
            client.close()

    def _name(self) -> str:
        where = f" at {self._base_url}" if self._base_url else ""
        return ("the offline model" if self.offline else "Gemini") + where

    def _scrub(self, error: Exception) -> str:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (text.replace(self._secret, "[key]") if self._secret else text)[:300]


def run_bounded(call: Callable[[], Coroutine[Any, Any, R]], seconds: float) -> R:
    """Run a coroutine in a thread and loop of its own, and return within `seconds` plus one.

    In a thread, because a loop may already run in this one (Playwright's synchronous API starts one), and because a
    hanging name look-up cannot be cancelled: then the thread is abandoned.

    Raises:
        TimeoutError: the time is over.
    """
    outcome: Future[R] = Future()

    def run() -> None:
        try:
            outcome.set_result(asyncio.run(asyncio.wait_for(call(), seconds)))
        except BaseException as error:  # the caller's thread raises it
            outcome.set_exception(error)

    threading.Thread(target=run, name="model-call", daemon=True).start()
    return outcome.result(timeout=seconds + 1.0)


def wire_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with only the keywords that Gemini accepts; it refuses requests with others."""
    return _only_known(schema.model_json_schema())


def _only_known(node: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key not in _SCHEMA_KEYWORDS:
            continue
        if key in ("properties", "$defs"):
            kept[key] = {name: _only_known(each) for name, each in value.items()}
        elif key in ("anyOf", "oneOf", "prefixItems"):
            kept[key] = [_only_known(each) for each in value]
        elif isinstance(value, dict):
            kept[key] = _only_known(value)
        else:
            kept[key] = value
    return kept
