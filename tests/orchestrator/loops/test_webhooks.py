"""Webhooks through real workers to a real receiver on loopback: signed, in order, tried again, given up, replayed."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tenants.store.jobs import webhook_deliveries
from tests.orchestrator.conftest import Service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


class Receiver:
    """Keeps what it is sent. A path such as `/500/1` or `/hang/1` says what to do first, and how often."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], str]] = []
        self.go = threading.Event()
        self.gone = False
        self._now: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._state = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                status = receiver.take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{receiver.url}/redirected")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """The test reads `calls`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def take(self, path: str, headers: dict[str, str], body: str) -> int:
        with self._state:
            self.calls.append((path, {name.lower(): value for name, value in headers.items()}, body))
            before = sum(each == path for each, _, _ in self.calls) - 1
            self._now[path] += 1
            self._most[path] = max(self._most[path], self._now[path])
        try:
            _, what, *times = path.split("/")
            if times and before >= int(times[0]):
                return 204
            if what == "hang":
                self.go.wait(60)
            elif what == "gone":
                return 410 if self.gone else 200
            return int(what) if what.isdigit() else 200
        finally:
            with self._state:
                self._now[path] -= 1

    def at(self, path: str) -> list[tuple[dict[str, str], str]]:
        return [(headers, body) for each, headers, body in list(self.calls) if each == path]

    def most_at(self, path: str) -> int:
        """How many calls of a path there were at a time, at most."""
        return self._most[path]

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def delivered(service: Service, job_id: str) -> Mapping[str, Any]:
    """The job's only delivery, once it has ended."""
    service.wait(job_id)
    delivery_id = service.runtime.webhooks.log(job_id, None)[0]["id"]
    service.wait(delivery_id)
    (found,) = service.runtime.webhooks.log(job_id, None)
    return found


def verified(secret: str, headers: Mapping[str, str], body: str) -> Any:
    return Webhook(secret).verify(body, dict(headers))


def test_what_becomes_of_webhooks(service: Service, receiver: Receiver) -> None:
    """One worker, one account for each kind of receiver, side by side: a worker's start takes longest here."""
    secrets = {account: service.runtime.webhook_secrets.rotate(account)["secret"] for account in ("acme", "flaky")}
    again = service.make("quick", account="again", callback_url=f"{receiver.url}/again")
    service.runtime.jobs.cancel(again)
    service.runtime.jobs.retry(again)
    service.work(threads=8, ONELANE_ALLOWED_HOSTS=receiver.host)
    row = [service.make("quick", callback_url=f"{receiver.url}/row") for _ in range(4)]
    receiver.gone = True
    gone = service.make("quick", account="gone", callback_url=f"{receiver.url}/gone")
    failing = service.make("quick", account="failing", do="reject", callback_url=f"{receiver.url}/failing")
    flaky = service.make("quick", account="flaky", callback_url=f"{receiver.url}/500/1")
    slow = service.make("quick", account="slow", callback_url=f"{receiver.url}/hang/1")
    moved = service.make("quick", account="moved", callback_url=f"{receiver.url}/302/1")
    inner = service.make("quick", account="inner", callback_url="http://127.0.0.1:9/inner")
    silent = service.make("quick", account="silent")

    are_signed_and_in_order(service, receiver, row, secrets["acme"])
    with pytest.raises(WebhookVerificationError):
        verified(secrets["flaky"], *receiver.at("/row")[0])
    reports_a_failure_without_a_requested_secret(service, receiver, failing)
    is_replayed_once_it_was_given_up(service, receiver, gone)
    reports_only_the_last_end(service, receiver, again)
    is_tried_again(service, receiver, flaky, "/500/1", "answered 500")
    is_tried_again(service, receiver, moved, "/302/1", "redirects are not followed")
    is_tried_again(service, receiver, slow, "/hang/1", "")
    assert receiver.at("/redirected") == []
    for headers, body in receiver.at("/500/1"):
        verified(secrets["flaky"], headers, body)

    refused = delivered(service, inner)
    assert (refused["status"], refused["error"]["code"]) == ("failed", "unsafe_url")
    assert refused["dead_letter_id"] is not None
    assert service.wait(silent)["status"] == "completed"
    assert service.runtime.webhooks.log(silent, None) == []


def are_signed_and_in_order(service: Service, receiver: Receiver, row: list[str], secret: str) -> None:
    for job_id in row:
        found = delivered(service, job_id)
        assert (found["status"], found["attempts"][0]["status_code"]) == ("completed", 200)
        assert found["attempts"][0]["seconds"] is not None
    sent = [verified(secret, headers, body) for headers, body in receiver.at("/row")]
    assert [each["data"]["id"] for each in sent] == row
    assert receiver.most_at("/row") == 1
    assert {each["type"] for each in sent} == {"job.ended"}
    assert (sent[0]["data"]["status"], sent[0]["data"]["steps"][0]["status"]) == ("completed", "completed")
    assert sent[0]["timestamp"] == sent[0]["data"]["finished_at"]


def reports_a_failure_without_a_requested_secret(service: Service, receiver: Receiver, job_id: str) -> None:
    assert delivered(service, job_id)["job_status"] == "failed"
    ((headers, body),) = receiver.at("/failing")
    assert headers["webhook-signature"].startswith("v1,")
    assert json.loads(body)["data"]["error"]["code"] == "publish_failed"


def is_replayed_once_it_was_given_up(service: Service, receiver: Receiver, job_id: str) -> None:
    found = delivered(service, job_id)
    assert (found["status"], found["error"]["code"]) == ("failed", "callback_failed")
    assert found["attempts"][0]["status_code"] == 410
    assert found["dead_letter_id"] is not None
    receiver.gone = False
    service.runtime.jobs.retry(found["id"])
    service.wait(found["id"], "completed")
    (again,) = service.runtime.webhooks.log(job_id, None)
    assert (again["status"], again["dead_letter_id"], len(again["attempts"])) == ("completed", None, 2)
    assert {headers["webhook-id"] for headers, _ in receiver.at("/gone")} == {found["id"]}


def reports_only_the_last_end(service: Service, receiver: Receiver, job_id: str) -> None:
    """The job was cancelled, and resumed before any worker ran."""
    service.wait(job_id, "completed")
    for row in service.runtime.database.read(lambda connection: webhook_deliveries.of_job(connection, job_id)):
        service.wait(row["id"])
    first, second = service.runtime.webhooks.log(job_id, None)
    assert (first["job_status"], first["superseded"]) == ("cancelled", True)
    assert (second["job_status"], second["superseded"]) == ("completed", False)
    assert [json.loads(body)["data"]["status"] for _, body in receiver.at("/again")] == ["completed"]


def is_tried_again(service: Service, receiver: Receiver, job_id: str, path: str, error: str) -> None:
    found = delivered(service, job_id)
    assert [each["outcome"] for each in found["attempts"]][1:] == ["completed"], found
    assert error in found["attempts"][0]["error"]["message"]
    calls = receiver.at(path)
    assert {headers["webhook-id"] for headers, _ in calls} == {found["id"]}, "each try has the same id"
    assert len({body for _, body in calls}) == 1


def test_a_call_whose_worker_dies_is_made_again(service: Service, receiver: Receiver) -> None:
    worker = service.work(threads=4, ONELANE_ALLOWED_HOSTS=receiver.host)
    job_id = service.make("quick", callback_url=f"{receiver.url}/hang/1")
    service.until(lambda: bool(receiver.at("/hang/1")), "the receiver to be called")
    worker.kill()
    worker.wait(60)
    service.work(threads=4, ONELANE_ALLOWED_HOSTS=receiver.host)
    found = delivered(service, job_id)
    assert found["status"] == "completed"
    assert found["attempts"][-1]["status_code"] == 204
    assert {headers["webhook-id"] for headers, _ in receiver.at("/hang/1")} == {found["id"]}
