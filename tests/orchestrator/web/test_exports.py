"""An account's export: everything held, nothing secret, and a cut that is noticed."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import LargeBinary

from orchestrator.control import exports as pieces
from orchestrator.runtime import Runtime
from tenants.errors import Unavailable
from tenants.store.removal import exports, holdings
from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, ON_BOTH, Api, Bench
from tests.orchestrator.web.held import ODD, fill

PATH = "/v1/accounts/acme:export"


def lines_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@ON_BOTH
def test_every_table_is_exported_and_no_secret(api: Api, runtime: Runtime) -> None:
    for account in (ODD, ODD + "x"):
        runtime.database.write(lambda c, account=account: fill(c, account, runtime.settings.data_dir))  # type: ignore[misc]
    lines = lines_of(api.get(f"/v1/accounts/{quote(ODD, safe='')}:export"))

    header, *body, end = lines
    assert (header["type"], header["version"], header["account"]) == ("header", 1, ODD)
    assert end == {"type": "end", "counts": dict(Counter(line["type"] for line in body))}
    assert set(end["counts"]) == {each.kind for each in holdings.ALL}
    assert set(end["counts"].values()) == {1}, "one of each, and nothing of the other's"
    assert ODD + "x" not in json.dumps(lines, ensure_ascii=False)
    by_kind = {line["type"]: line["data"] for line in body}
    for each in holdings.ALL:
        shown = set(by_kind[each.kind])
        assert not shown & each.hidden, each.kind
        secret = {column.name for column in each.table.c if isinstance(column.type, LargeBinary)}
        assert secret <= each.hidden, "what is sealed stays here"
        if each.kind not in ("usage", "artifact"):
            assert shown - {"sealed"} == set(each.table.c.keys()) - each.hidden
    assert by_kind["session"]["sealed"] == ["storage_state", "credentials"]
    assert base64.b64decode(by_kind["artifact"]["content"]) == b"evidence"
    assert "path" not in by_kind["artifact"]


@ON_BOTH
def test_what_the_api_made_comes_out(api: Api, bench: Bench, new_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several pages of each table."""
    monkeypatch.setattr(exports, "ROWS", 3)
    monkeypatch.setattr(exports, "JOBS", 2)
    jobs = [new_job() for _ in range(5)]
    new_job("other")
    bench.fail(bench.start(jobs[0]))
    api.put("/v1/accounts/acme/session", {"credentials": {"username": "alice", "password": "correct horse"}})
    key = api.post("/v1/accounts/acme/keys", {"name": "backend"}).json()
    secret = api.post("/v1/accounts/acme/webhook-secret").json()["secret"]

    answer = api.get(PATH)

    lines = lines_of(answer)
    for hidden in ("correct horse", "alice", key["key"], secret):
        assert hidden not in answer.text
    assert [line["data"]["id"] for line in lines if line["type"] == "job"] == [job["id"] for job in jobs]
    assert {line["data"]["input"]["topic"] for line in lines if line["type"] == "job"} == {"lanes"}
    counts = lines[-1]["counts"]
    assert (counts["job"], counts["step"], counts["attempt"], counts["dead_letter"]) == (5, 10, 1, 1)
    assert counts["event"] == len([line for line in lines if line["type"] == "event"]) > 5
    assert [line["data"]["jobs"] for line in lines if line["type"] == "usage"] == [5]
    noted = api.get("/v1/admin/audit").json()["items"][0]
    assert (noted["action"], noted["target"]) == ("GET /v1/accounts/{account}:export", PATH)


def test_an_account_that_is_not_there_has_no_export(api: Api) -> None:
    answer = api.get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert api.get("/v1/admin/audit").json()["items"] == []


def test_a_head_has_no_body(api: Api, new_job: Any) -> None:
    new_job()
    answer = api("HEAD", PATH)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/x-ndjson"


def test_what_comes_after_the_beginning_is_left_out(runtime: Runtime, new_job: Any) -> None:
    """So it comes to an end, however busy the account is."""
    job = new_job()
    found = exports.rows(runtime.database, "acme")
    assert next(found).kind == "account"
    new_job()
    assert [row.data["id"] for row in found if row.kind == "job"] == [job["id"]]


def test_a_stream_that_is_cut_has_no_end(api: Api, new_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    new_job()
    monkeypatch.setattr(pieces, "CHUNK_BYTES", 1)

    def cut(*_: Any) -> Any:
        raise Unavailable("the database failed: no route to db.internal")

    monkeypatch.setattr(exports, "_jobs", cut)
    lines = lines_of(api.get(PATH))
    assert lines[-1]["type"] == "error"
    assert lines[-1]["code"] == "unavailable"
    assert "db.internal" not in str(lines)


def test_nothing_is_read_that_nobody_takes(runtime: Runtime, new_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is read when the one before has gone out: so a client that goes away stops it, and memory is bounded."""
    for _ in range(4):
        new_job()
    monkeypatch.setattr(exports, "JOBS", 1)
    monkeypatch.setattr(pieces, "CHUNK_BYTES", 1)
    reads = 0
    read = runtime.database.read

    def counted(work: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(work)

    monkeypatch.setattr(runtime.database, "read", counted)
    made = pieces.chunks(runtime.database, "acme", runtime.settings.data_dir)
    while b'"type":"job"' not in next(made):
        continue
    so_far = reads
    assert b'"type":"step"' in next(made)
    assert reads <= so_far + 3, "one page of what hangs on the job, and no further job"
    so_far = reads
    made.close()
    assert reads == so_far


def test_a_client_that_goes_away_ends_it(
    address: tuple[str, int], runtime: Runtime, new_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real connection that is closed after the first bytes: the rest of the rows is never read."""
    rows = exports.rows
    given, ended = 0, threading.Event()

    def endless(*arguments: Any) -> Iterator[exports.Row]:
        nonlocal given
        first, *_ = rows(*arguments)
        try:
            while True:
                given += 1
                yield exports.Row("job", {**first.data, "filler": "x" * 10_000})
        finally:
            ended.set()

    new_job()
    monkeypatch.setattr(exports, "rows", endless)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(
            b"GET /v1/accounts/acme:export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % ADMIN_KEY.encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert ended.wait(60), "nobody takes it, and it goes on"
    assert given < 10_000


def test_only_an_admin_exports(api: Api, make_key: Any) -> None:
    api.post("/v1/accounts/acme/jobs", JOB)
    answer = api.with_key(make_key("acme")).get(PATH)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
