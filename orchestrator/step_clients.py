"""The settings of the clients that steps use: the text model, the browser and HTTP."""

from __future__ import annotations

import hashlib
from typing import Any

from actors.errors import ProviderError
from tenants.errors import InvalidInput

from .settings import Settings


def text_model_scope(settings: Settings) -> str:
    """Provider and credential of the text model, as backoffs and refusals name them."""
    return f"gemini:{_credential(settings)}"


def _credential(settings: Settings) -> str:
    """A short name of the text model's credential that does not reveal it."""
    if settings.gemini_api_key is None:
        return "offline"
    return hashlib.sha256(settings.gemini_api_key.get_secret_value().encode()).hexdigest()[:8]


def text_model_settings(settings: Settings) -> dict[str, Any]:
    """Gemini if there is a key; otherwise the offline model, which has the same protocol.

    Raises:
        ProviderError: neither is set up.
    """
    if settings.gemini_api_key is not None:
        api_key, offline = settings.gemini_api_key.get_secret_value(), False
        base_url, model = settings.gemini_base_url, settings.text_model
    elif settings.offline_model_url is not None:
        api_key, offline = "offline", True
        base_url, model = settings.offline_model_url, "offline-model"
    else:
        raise ProviderError("no text model is set up: set GEMINI_API_KEY, or run `onelane up`, which has its own")
    return {
        "api_key": api_key,
        "base_url": base_url,
        "model": model,
        "offline": offline,
        "credential": _credential(settings),
    }


def client_settings(settings: Settings, name: str) -> dict[str, Any]:
    """The settings of a client that needs no credential.

    Raises:
        InvalidInput: there is no such client, or this machine cannot run it.
    """
    if name == "http":
        return {"allowed_hosts": list(settings.allowed_hosts)}
    if name != "browser":
        raise InvalidInput(f"there are no settings for a client {name!r}; there are: browser, http, text_model")
    chromium = settings.find_chromium()
    if chromium is None:
        raise InvalidInput("no Chromium was found: install chromium-headless-shell or set ONELANE_CHROMIUM")
    return {"executable": str(chromium), "allowed_hosts": list(settings.allowed_hosts), "headless": True}
