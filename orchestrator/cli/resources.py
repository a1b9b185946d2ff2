"""The commands that speak to a service over HTTP, hung into the command line: one group for each kind of resource."""

from __future__ import annotations

import typer

from . import account_data, accounts, admin, alerts, dead_letters, drafts, jobs, schedules, secret_keys


def add_to(app: typer.Typer) -> None:
    """Hang the groups and the single commands into the command line."""
    account_data.add_to(accounts.group, accounts.keys)
    for name, group in (
        ("jobs", jobs.group),
        ("drafts", drafts.group),
        ("publications", drafts.publications),
        ("schedules", schedules.group),
        ("accounts", accounts.group),
        ("keys", accounts.keys),
        ("queues", admin.queues),
        ("lanes", admin.lanes),
        ("dead-letters", dead_letters.group),
        ("alerts", alerts.group),
        ("workers", admin.workers),
        ("pipelines", admin.pipelines),
        ("admin-keys", account_data.admin_keys),
        ("secrets", secret_keys.group),
    ):
        app.add_typer(group, name=name)
    for name, command in (("reap", admin.reap), ("reconcile", admin.reconcile), ("audit", admin.audit)):
        app.command(name)(command)
