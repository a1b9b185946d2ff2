"""`python -m tenants.queues carry-over URL`: moves the messages of an earlier release to this release's keys."""

from __future__ import annotations

import argparse
import sys
import time

from dramatiq.errors import BrokerConnectionError

from .broker import TenantBroker
from .errors import QueueError


def main(arguments: list[str] | None = None) -> int:
    """Moves messages until none is left or the time is over. Returns 0 if none is left, otherwise 1."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("command", choices=["carry-over"])
    parser.add_argument("url", help="of the server, such as redis://localhost:6379")
    parser.add_argument("--namespace", default="onelane")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for leases of stopped workers to end")
    chosen = parser.parse_args(arguments)
    broker = TenantBroker(
        url=chosen.url, namespace=chosen.namespace, shards=chosen.shards, middleware=[], other_layouts="ignore"
    )
    ends_at = time.monotonic() + chosen.wait
    messages = 0
    try:
        while True:
            done = broker.layouts.carry_over()
            messages += done.messages
            if not done.left or time.monotonic() >= ends_at:
                break
            time.sleep(1.0)
    except (QueueError, BrokerConnectionError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        broker.close()
    print(f"{messages} message(s) carried over")
    if done.left:
        print(f"{done.left} message(s) are still leased: stop the earlier release's workers and call again")
    return 1 if done.left else 0


if __name__ == "__main__":
    sys.exit(main())
