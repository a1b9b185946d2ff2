"""Makes `79505e3.json`, the keys that the broker of 79505e3 leaves when it is killed at work.

Run in a checkout of that commit: `python …/make_79505e3.py > 79505e3.json`. Eight leases are held (their
expiry is past by the time of a test), one message is buried, one delayed, and a queue and the lane have
settings. The payloads are those of DUMP.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path

import redis
from dramatiq import Message

sys.path.insert(0, os.getcwd())

from tenants.queues import EmbeddedValkey, Entry, QueueLimits, TenantBroker
from tenants.queues.lua import script

ACCOUNTS = ("plain", "wide", "strict", "paused", "a:{b} ü", None)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder), port=0) as server:
        client = redis.Redis.from_url(server.url)
        broker = TenantBroker(url=server.url)
        admin, root = broker.queues_admin, broker.keys.root("publish")
        admin.set_limits("publish", "wide", QueueLimits(concurrency=2, weight=3))
        admin.set_limits("publish", "strict", QueueLimits(ordering="strict"))
        admin.pause("publish", "paused")
        admin.set_lane_limits("publish", 50)
        for account in ACCOUNTS:
            broker.enqueue_many(Entry(message(account), f"{number}", sequence=number) for number in range(4))
        broker.enqueue_once(Entry(message("plain"), "late", sequence=9, delay_seconds=86400.0 * 3650))
        leases = broker.server.run(script("claim"), root, "w1.0", 1, 0, 9, 15000, 0)[2]
        token, slot, epoch = next(each[:3] for each in leases if each[0] == b"@strict")
        broker.server.run(
            script("settle"), root, "w1.0", 2, 0, 0, 15000, 0, token, slot, epoch, "bury", 0, b"", "failed"
        )
        keys = sorted(client.scan_iter("onelane:*"))
        dumped = {text(key): text(client.dump(key)) for key in keys}
        json.dump({"commit": "79505e3", "keys": dumped}, sys.stdout, indent=0)


def message(account: str | None) -> Message[None]:
    options = {} if account is None else {"account": account}
    return Message(queue_name="publish", actor_name="act", args=(), kwargs={}, options=options)


def text(raw: bytes | None) -> str:
    return base64.b64encode(raw or b"").decode()


if __name__ == "__main__":
    main()
