"""Which credential of which provider the text model uses, as the store names it."""

from __future__ import annotations

import hashlib

from .settings import Settings


def credential_of(settings: Settings) -> str:
    """A short name of the credential, from which it cannot be derived."""
    if settings.gemini_api_key is None:
        return "offline"
    return hashlib.sha256(settings.gemini_api_key.get_secret_value().encode()).hexdigest()[:8]


def text_model_scope(settings: Settings) -> str:
    """Provider and credential, as backoffs and refusals name them."""
    return f"gemini:{credential_of(settings)}"
