"""Paths to call a route by."""

from __future__ import annotations

from orchestrator.web.http.routing import Route

NOBODYS_ID = "0199c0de-0000-7000-8000-000000000000"


def path_of(route: Route, account: str = "acme", id: str = NOBODYS_ID) -> str:
    return route.path.replace("{account}", account).replace("{id}", id).replace("{lane}", "generate")
