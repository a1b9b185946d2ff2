"""Over a real server and real sockets: what a test client would smooth over."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import httpx2

from tests.orchestrator.web.conftest import ADMIN_KEY, JOB, Bench

AUTH = f"Authorization: Bearer {ADMIN_KEY}\r\n"


def talk(address: tuple[str, int], *pieces: bytes) -> bytes:
    """Send the pieces as they are; what came back until the server closed, or sent a whole answer."""
    with socket.create_connection(address, timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                received += chunk
                head, end, body = received.partition(b"\r\n\r\n")
                length = next(
                    (int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")), 0
                )
                if end and len(body) >= length:
                    break
        return received


def test_an_encoded_slash_and_colon_belong_to_the_account(address: tuple[str, int]) -> None:
    body = json.dumps(JOB).encode()
    for raw, account in ((b"a%2Fjobs", "a/jobs"), (b"a%3Apause", "a:pause"), (b"*", "*"), (b"%F0%9F%90%9D", "🐝")):
        answer = talk(
            address,
            b"POST /v1/accounts/" + raw + b"/jobs HTTP/1.1\r\nHost: x\r\n" + AUTH.encode(),
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
        )
        head, _, content = answer.partition(b"\r\n\r\n")
        assert b" 202 " in head.split(b"\r\n")[0], answer
        assert json.loads(content)["account"] == account


def test_a_large_body_is_refused_before_it_is_sent(address: tuple[str, int]) -> None:
    answer = talk(
        address,
        f"POST /v1/accounts/a/jobs HTTP/1.1\r\nHost: x\r\n{AUTH}".encode(),
        b"Content-Type: application/json\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert b"too_large" in answer


def test_a_chunked_body_that_never_ends_is_refused(address: tuple[str, int]) -> None:
    head = f"POST /v1/accounts/a/jobs HTTP/1.1\r\nHost: x\r\n{AUTH}".encode()
    chunk = b"%x\r\n%s\r\n" % (65_536, b" " * 65_536)
    answer = talk(address, head, b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", chunk * 17)
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]


def test_a_client_that_sends_a_large_body_gets_its_answer(address: tuple[str, int]) -> None:
    with httpx2.Client(base_url=f"http://{address[0]}:{address[1]}", trust_env=False) as client:
        answer = client.post(
            "/v1/accounts/a/jobs",
            content=b"x" * 3_000_000,
            headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"},
        )
        assert answer.status_code == 413


def test_many_callers_wait_without_a_thread_each(address: tuple[str, int], bench: Bench) -> None:
    """More waiters than the store has threads; a job that ends lets its own waiters go."""
    import asyncio

    async def run() -> list[str]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(
            base_url=f"http://{address[0]}:{address[1]}",
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            limits=limits,
            timeout=120,
            trust_env=False,
        ) as client:
            job = (await client.post("/v1/accounts/a/jobs", json=JOB)).json()
            owned = bench.start(job)
            waiting = [asyncio.create_task(client.get(f"/v1/jobs/{job['id']}?wait=40")) for _ in range(100)]
            before = threading.active_count()
            await client.get("/healthz")
            assert threading.active_count() - before < 30
            bench.fail(owned)
            return [(await each).json()["status"] for each in waiting]

    assert asyncio.run(run()) == ["failed"] * 100
