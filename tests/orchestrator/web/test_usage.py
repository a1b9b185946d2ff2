"""What an account used: true numbers, whatever was removed meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, update

from orchestrator.runtime import Runtime
from tenants.database.columns import db_now
from tenants.database.models import Attempt, Job, Usage
from tenants.errors import OwnershipLost
from tenants.store.accounts import usage
from tenants.store.publishing import publications
from tenants.store.removal import pruning
from tests.orchestrator.web.conftest import ON_BOTH, Api, Bench
from tests.support.ports import step_port

USAGE = "/v1/accounts/acme/usage"


def today(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.get("/v1/accounts/acme").json()["usage"]["today"]
    return found


def lasted(bench: Bench, seconds: float, *, days_ago: int = 0) -> None:
    """Let every ended attempt have lasted so long, some days ago."""
    table = Attempt.__table__
    end = datetime.now(UTC).replace(hour=12) - timedelta(days=days_ago)
    values = {"started_at": end - timedelta(seconds=seconds), "finished_at": end}
    bench.write(lambda c: c.execute(update(table).where(table.c.finished_at.is_not(None)).values(**values)))


@ON_BOTH
def test_seconds_are_those_of_attempts_and_stay_when_these_are_pruned(
    api: Api, bench: Bench, new_job: Any, runtime: Runtime
) -> None:
    for _ in range(3):
        bench.fail(bench.start(new_job()))
    new_job("other")
    lasted(bench, 2.25)
    assert (today(api)["seconds"], today(api)["jobs"]) == (6.75, 3)
    bench.write(lambda c: c.execute(update(Job.__table__).values(finished_at=db_now(-10))))
    bench.write(lambda c: c.execute(Attempt.__table__.delete().where(Attempt.__table__.c.account == "other")))

    api.post("/v1/admin/dead-letters:discard", {"filter": {}})
    none_kept = pruning.Retention(completed=0, failed=1, grace=0)
    found = pruning.candidates(runtime.database, none_kept, limit=100)
    assert pruning.remove(runtime.database, found).jobs == 2

    rows = runtime.database.read(lambda c: c.execute(Usage.__table__.select()).mappings().all())
    assert {row["account"]: row["seconds"] for row in rows} == {"acme": 4.5, "other": 0.0}
    assert (today(api)["seconds"], today(api)["jobs"]) == (6.75, 3)


@ON_BOTH
def test_what_a_step_uses_counts_also_on_a_day_without_a_new_job(
    api: Api, bench: Bench, new_job: Any, runtime: Runtime
) -> None:
    """The day's row is made by whatever is used first; it came only with a job, so a job of yesterday lost its use."""
    owned = bench.start(new_job())
    bench.write(lambda c: c.execute(Usage.__table__.delete()))
    port = step_port(runtime, owned)

    port.call("usage.add", {"tokens_in": 100, "tokens_out": 23})
    port.call("usage.add", {"tokens_in": 1, "tokens_out": 0})
    port.call("artifact.save", {"name": "page.png", "content_type": "image/png", "data": "AAEC"})
    port.call("draft.create", {"title": "t", "body": "b", "tags": []})
    port.call("publication.open", {"publisher": "demo", "base_url": "https://example.com"})
    port.call("publication.started", {"version": 1})
    port.call("publication.confirmed", {"url": "https://example.com/1", "external_id": None})

    assert {name: today(api)[name] for name in ("jobs", "tokens", "posts", "bytes")} == {
        "jobs": 0,
        "tokens": 124,
        "posts": 1,
        "bytes": 3,
    }


@ON_BOTH
def test_a_post_confirmed_by_hand_is_a_post(api: Api, bench: Bench, new_job: Any) -> None:
    owned = bench.start(new_job())

    def leave(connection: Connection) -> str:
        publications.create_draft(connection, owned, title="t", body="b", tags=[])
        entry = publications.open_entry(connection, owned, publisher="demo", base_url="https://example.com")
        publications.started(connection, owned, 1)
        return str(entry["id"])

    entry = bench.write(leave)
    bench.fail(owned)
    answer = api.post(f"/v1/admin/publications/{entry}:confirm", {"url": "https://example.com/1"})
    assert (answer.status_code, today(api)["posts"]) == (200, 1)


@ON_BOTH
def test_the_history_is_by_day_and_sums_up(api: Api, bench: Bench, new_job: Any) -> None:
    bench.fail(bench.start(new_job()))
    lasted(bench, 1.5, days_ago=3)
    day = (datetime.now(UTC) - timedelta(days=3)).date().isoformat()
    bench.write(lambda c: usage.add_to_day(c, "acme", day, tokens=7))
    bench.write(lambda c: usage.add_to_day(c, "acme", "2026-01-01", posts=2))

    history = api.get(USAGE).json()
    assert [each["day"] for each in history["items"]] == [datetime.now(UTC).date().isoformat(), day]
    assert history["items"][1] == {"day": day, "jobs": 0, "seconds": 1.5, "tokens": 7, "posts": 0, "bytes": 0}
    assert history["total"] == {"jobs": 1, "seconds": 1.5, "tokens": 7, "posts": 0, "bytes": 0}
    old = api.get(f"{USAGE}?from=2025-12-31&to=2026-01-02").json()
    assert [each["posts"] for each in old["items"]] == [2]
    assert (old["from"], old["to"]) == ("2025-12-31", "2026-01-02")
    assert api.get(f"{USAGE}?from={day}&to={day}").json()["total"]["seconds"] == 1.5


def test_a_history_needs_an_account_and_days(api: Api, new_job: Any) -> None:
    assert api.get(USAGE).status_code == 404
    new_job()
    for query in ("from=yesterday", "from=20260101", "from=2026-02-01&to=2026-01-01", "from=2024-01-01&to=2026-01-01"):
        answer = api.get(f"{USAGE}?{query}")
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["from"]), query
    assert api.get(f"{USAGE}?to=0001-01-01").json()["errors"][0]["loc"] == ["to"]


@ON_BOTH
def test_a_step_that_was_removed_leaves_nothing_behind(bench: Bench, new_job: Any, runtime: Runtime, api: Api) -> None:
    owned = bench.start(new_job())
    port = step_port(runtime, owned)
    bench.write(lambda c: c.execute(Job.__table__.delete()))  # its steps and attempts go with it
    for name, payload in (
        ("usage.add", {"tokens_in": 1, "tokens_out": 1}),
        ("artifact.save", {"name": "late.png", "content_type": "image/png", "data": "AAEC"}),
    ):
        with pytest.raises(OwnershipLost):
            port.call(name, payload)
    assert today(api)["tokens"] == 0
    assert [path for path in (runtime.settings.data_dir / "artifacts").rglob("*") if path.is_file()] == []
