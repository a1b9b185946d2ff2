"""What it costs to parse a request's input, against its size: CPU, and the exponent with which it grows.

    python -m tests.benchmarks.request_input [--largest BYTES] [--only WORD]

Every parser of a request is given the worst input that we know for it, in growing sizes. The exponent comes from the
two largest sizes: 1 is linear, 2 quadratic. `at 2 KiB` is what the event loop can be made to do by one call; the rest
is parsed on threads.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request

from orchestrator.heap import collector_paused
from orchestrator.web.app import ROUTES
from orchestrator.web.http.auth import _bearer
from orchestrator.web.http.bodies import check_json_type, decode_json
from orchestrator.web.http.idempotency import _KEY, _canonical, _digest
from orchestrator.web.http.middleware import _request_id
from orchestrator.web.http.paths import UndecodablePath, split_path
from orchestrator.web.http.preconditions import wanted_version
from orchestrator.web.http.problems import Problem, problem_response
from orchestrator.web.http.routing import Route
from orchestrator.web.http.validation import validate
from tenants.errors import InvalidInput
from tenants.store.listings import decode_place

Parser = Callable[[bytes], object]
SMALL = 2 * 1024
FACTOR = 4


def bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies of about that many bytes, each made to cost one part of the parser the most."""
    n = max(1, size // 8)
    draw = random.Random(1)
    drawn = [draw.choice(['"a"', "1", "1.5", "null", '{"b":"\\u00e9"}', "[]"]) for _ in range(size // 9)]
    yield "a key a thousand times", b"{" + b",".join([b'"k":1'] * (size // 6)) + b"}"
    yield "keys doubled", b"{" + b",".join(b'"k%d":1' % (i // 2) for i in range(size // 10)) + b"}"
    yield "objects with a doubled key", b"[" + b",".join([b'{"a":1,"a":2}'] * (size // 14)) + b"]"
    yield "NaN", b'{"input":[' + b",".join([b"NaN"] * (size // 4)) + b"]}"
    yield "lone surrogates", b'{"input":["' + b'","'.join([b"\\ud800"] * (size // 9)) + b'"]}'
    yield "surrogates in keys", b'{"input":{' + b",".join(b'"\\ud800%d":1' % i for i in range(size // 14)) + b"}}"
    yield "unknown fields", b"{" + b",".join(b'"%x":1' % i for i in range(size // 9)) + b"}"
    yield (
        "unknown fields in jobs",
        (b'{"jobs":[' + b",".join([b'{"pipeline":"a","x":1,"y":2,"z":3}'] * (size // 35)) + b"]}"),
    )
    yield "many jobs", b'{"jobs":[' + b",".join([b"{}"] * (size // 3)) + b"]}"
    yield "many tags", b'{"pipeline":"a","tags":[' + b",".join([b'""'] * (size // 3)) + b"]}"
    yield "many times", b'{"at":[' + b",".join([b'"2026-11-21T09:00:00Z"'] * (size // 23)) + b"]}"
    yield "many inputs", b'{"inputs":[' + b",".join([b"1"] * (size // 2)) + b"]}"
    yield "many lanes", b'{"lanes":{' + b",".join(b'"%x":{}' % i for i in range(size // 11)) + b"}}"
    yield "one long number", b'{"priority":' + b"9" * size + b"}"
    yield "one long fraction", b'{"priority":0.' + b"3" * size + b"}"
    yield "numbers of 1000 digits", b"[" + b",".join([b"7" * 1000] * (size // 1001 + 1)) + b"]"
    yield "brackets that stay open", b"[" * size
    yield "nested as deep as allowed", b"[" + b",".join([b"[" * 60 + b"]" * 60] * (size // 121 + 1)) + b"]"
    yield "one string", b'{"input":{"a":"' + b"x" * size + b'"}}'
    yield "escapes", b'{"input":{"a":"' + b"\\u00e9" * (size // 6) + b'"}}'
    yield "quotes and backslashes", b'{"input":{"a":"' + b'\\"\\\\' * (size // 4) + b'"}}'
    yield "no JSON at its end", b"[" + b"\n1," * (size // 3) + b"x"
    yield "not UTF-8 at its end", b'"' + b"x" * size + b"\xff"
    yield "spaces", b" " * size + b"{}"
    yield "drawn", b'{"input":[' + ",".join(drawn).encode() + b"]}"
    yield "one long key", json.dumps({"k" * n * 8: 1}).encode()


def queries(size: int) -> Iterator[tuple[str, bytes]]:
    yield "many parameters", b"&".join(b"a%d=1" % i for i in range(size // 7))
    yield "one parameter many times", b"&".join([b"q=1"] * (size // 4))
    yield "separators", b"&" * size
    yield "escapes", b"q=" + b"%41" * (size // 3)
    yield "broken escapes", b"q=" + b"%" * size
    yield "plus signs", b"q=" + b"+" * size
    yield "a long number", b"limit=" + b"1" * size
    yield "a long time", b"created_after=2026-11-21T09:00:00." + b"1" * size + b"Z"
    yield "a long cursor", b"cursor=" + b"W" * size
    yield "a long name", b"n" * size + b"=1"


def headers(size: int) -> Iterator[tuple[str, str]]:
    yield "letters", "a" * size
    yield "spaces", " " * size
    yield "a space in between", "a " * (size // 2) + "\t"
    yield "separators", ";" * size
    yield "commas", "gzip," * (size // 5)
    yield "quotes", '"' * size
    yield "digits", "1" * size
    yield "bearer", "Bearer " + " " * size + "x"


def paths(size: int) -> Iterator[tuple[str, bytes]]:
    yield "slashes", b"/" * size
    yield "escapes", b"/v1/accounts/" + b"%41" * (size // 3)
    yield "a broken escape at its end", b"/v1/accounts/" + b"%41" * (size // 3) + b"%"
    yield "colons", b"/v1/jobs" + b":" * size
    yield "a long account", b"/v1/accounts/" + b"a" * size + b"/jobs"


def cursors(size: int) -> Iterator[tuple[str, str]]:
    yield "letters", "W" * size
    yield "brackets", "W1tb" * (size // 4)
    yield "digits", "MTEx" * (size // 4)


def body_parser(route: Route) -> Parser:
    """What `calls.Api` does with the body of a route's call, up to the answer that refuses it."""
    params = dict.fromkeys(route.template.parameters, "a")

    def parse(body: bytes) -> object:
        try:
            value = decode_json(body)
            _digest(_canonical(value))
            return validate(route, params, b"", value, True)
        except Problem as problem:
            return problem_response(problem)

    return parse


def query_parser(route: Route) -> Parser:
    params = dict.fromkeys(route.template.parameters, "a")

    def parse(query: bytes) -> object:
        try:
            return validate(route, params, query, None, False)
        except Problem as problem:
            return problem_response(problem)

    return parse


def quietly(parse: Callable[[Any], object]) -> Callable[[Any], object]:
    """A parser that refuses has done its work too."""

    def run(value: Any) -> object:
        with contextlib.suppress(Problem, InvalidInput, UndecodablePath):
            return parse(value)
        return None

    return run


def header_parsers() -> Iterator[tuple[str, Callable[[Any], object]]]:
    def request(name: bytes, value: str) -> Request:
        return Request({"type": "http", "headers": [(name, value.encode("latin-1"))]})

    yield "Content-Type", lambda value: check_json_type(request(b"content-type", value))
    yield "Content-Encoding", lambda value: check_json_type(request(b"content-encoding", value))
    yield "Authorization", _bearer
    yield "If-Match", wanted_version
    yield "Idempotency-Key", _KEY.fullmatch
    yield "X-Request-Id", lambda value: _request_id({"headers": [(b"x-request-id", value.encode("latin-1"))]})


def parsers() -> Iterator[tuple[str, Callable[[int], Iterator[tuple[str, Any]]], Callable[[Any], object], int]]:
    """Name, inputs by size, the parser, and the largest size that can reach it."""
    models = dict[type[BaseModel], Route]()
    for route in ROUTES:
        if route.body_model is not None:
            models.setdefault(route.body_model, route)
    for model, route in models.items():
        limit = 16 * 1024**2 if route.body_limit == "max_batch_bytes" else 1024**2
        yield f"body {model.__name__}", bodies, body_parser(route), limit
    queried = {route.query: route for route in ROUTES}
    for query, route in queried.items():
        yield f"query {query.__name__}", queries, query_parser(route), 64 * 1024
    for name, parse in header_parsers():
        yield f"header {name}", headers, quietly(parse), 64 * 1024
    yield "path", paths, quietly(split_path), 64 * 1024
    yield "cursor int", cursors, quietly(lambda text: decode_place(text, int)), 64 * 1024
    yield "cursor str", cursors, quietly(lambda text: decode_place(text, str)), 64 * 1024


def cpu_seconds(parse: Callable[[Any], object], value: Any) -> float:
    """The least of some runs: what disturbs a run only adds to it."""
    best, spent = math.inf, 0.0
    for _ in range(5):
        begun = time.thread_time()
        with collector_paused():  # as the service does
            parse(value)
        took = time.thread_time() - begun
        best, spent = min(best, took), spent + took
        if spent > 0.3:
            break
    return max(best, 1e-7)


def measure(largest: int, only: str) -> None:
    print(f"{'parser':<32} {'input':<28} {'at 2 KiB':>10} {'largest':>9} {'CPU':>10} {'µs/KiB':>8} {'exponent':>8}")
    worst_small = worst_exponent = 0.0
    for name, inputs, parse, limit in parsers():
        if only not in name:
            continue
        top = min(limit, largest)
        small = {kind: cpu_seconds(parse, value) for kind, value in inputs(SMALL)}
        below = {kind: cpu_seconds(parse, value) for kind, value in inputs(top // FACTOR)}
        for kind, value in inputs(top):
            took = cpu_seconds(parse, value)
            exponent = math.log(took / below[kind], FACTOR)
            reporting = took > 0.002  # below, the clock and the constant part decide
            worst_small = max(worst_small, small[kind])
            worst_exponent = max(worst_exponent, exponent if reporting else 0.0)
            print(
                f"{name:<32} {kind:<28} {small[kind] * 1000:>7.2f} ms {top // 1024:>5} KiB {took * 1000:>7.1f} ms "
                f"{took * 1e6 / (top / 1024):>8.1f} {exponent:>8.2f}{'' if reporting else ' (quick)'}"
            )
    print(f"\nworst at 2 KiB: {worst_small * 1000:.2f} ms")
    print(f"worst exponent of what takes over 2 ms: {worst_exponent:.2f}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--largest", type=int, default=1024**2, help="bytes of the largest body")
    arguments.add_argument("--only", default="", help="parsers whose name contains this")
    chosen = arguments.parse_args()
    asyncio.set_event_loop(None)
    measure(chosen.largest, chosen.only)
