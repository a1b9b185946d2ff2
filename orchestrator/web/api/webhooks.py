"""Webhooks: the deliveries of a job, and the secret that signs an account's webhooks."""

from __future__ import annotations

from functools import partial
from typing import Any

from tenants.errors import NotFound

from ..http.auth import Access
from ..http.models import Items, Nothing, Query
from ..http.routing import Call, Reply, Route
from .models.webhooks import DeliveryView, NewWebhookSecretView, WebhookSecretView


def list_deliveries(call: Call[Query, Any]) -> Reply:
    return Reply({"items": call.service.runtime.webhooks.log(call.params["id"], call.owner)})


def get_secret(call: Call[Query, Any]) -> Reply:
    return Reply(call.service.runtime.webhook_secrets.describe(call.account))


def rotate_secret(call: Call[Query, Nothing]) -> Reply:
    secrets = call.service.runtime.webhook_secrets
    try:
        before: dict[str, Any] | None = secrets.describe(call.account)
    except NotFound:
        before = None

    def reply(made: dict[str, Any]) -> Reply:
        after = {name: made[name] for name in ("created_at", "previous_until")}
        return Reply(made, 201, audit={"before": before, "after": after})

    return reply(secrets.rotate(call.account, within=lambda connection, made: call.keep(connection, reply(made))))


_SECRET = "/v1/accounts/{account}/webhook-secret"  # noqa: S105 - a path

_route = partial(Route, tag="Webhooks", access=Access.OWN)

ROUTES = [
    _route(
        "GET",
        "/v1/jobs/{id}/deliveries",
        list_deliveries,
        "List the deliveries of a job's webhook",
        {200: Items[DeliveryView]},
        description=(
            "Each end of the job makes one delivery; the newest comes last. A delivery that failed for good is "
            "a dead letter; `POST /v1/jobs/{delivery id}:retry` or the dead letter's `:replay` sends it again."
        ),
    ),
    _route(
        "POST",
        _SECRET,
        rotate_secret,
        "Create a new webhook secret",
        {201: NewWebhookSecretView},
        creates=True,
        secret=True,
        description=(
            "The secret is shown only in this answer. The previous one also signs for 24 hours, so calls have two "
            "signatures then."
        ),
    ),
    _route("GET", _SECRET, get_secret, "Get when the webhook secret was created", {200: WebhookSecretView}),
]
