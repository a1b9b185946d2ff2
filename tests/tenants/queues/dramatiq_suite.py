"""Run Dramatiq's own tests against the tenant broker.

`python -m tests.tenants.queues.dramatiq_suite CHECKOUT [arguments for pytest]`.

`CHECKOUT` is a checkout of Dramatiq (its sdist lacks the fixtures). Only the broker is exchanged: in the fixture
`redis_broker`, and in the modules that the `dramatiq` command is started with. Nothing else of it is changed, but that
its server is a private one and that what needs memcached or RabbitMQ is left out, and so is what LEFT_OUT names.
Not part of `make test`, because the checkout has to be fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import ROOT
from tests.support.servers import start_valkey

#: Tests that look into `RedisBroker` itself: its keys, its `do_…` methods, its constructor.
LEFT_OUT = (
    "test_redis_unacked_messages_can_be_requeued",
    "test_redis_messages_can_be_dead_lettered",
    "test_redis_dead_lettered_messages_are_cleaned_up",
    "test_redis_messages_belonging_to_missing_actors_are_rejected",
    "test_redis_requeues_unhandled_messages_on_shutdown",
    "test_redis_requeues_unhandled_delay_messages_on_shutdown",
    "test_redis_broker_can_connect_via_url",
    "test_redis_broker_can_connect_via_client",
    "test_redis_consumer_ack_can_retry_on_connection_error",
    "test_redis_consumer_nack_can_retry_on_connection_error",
    "test_redis_join_race_condition",
)
#: Modules of whose tests one uses a broker on Redis, or its rate limiters and results.
MODULES = (
    "test_redis.py",
    "test_cli.py",
    "test_barrier.py",
    "test_bucket_rate_limiter.py",
    "test_concurrent_rate_limiter.py",
    "test_window_rate_limiter.py",
    "test_results.py",
)
_EXCHANGED = (
    "from functools import partial as _with\n"
    "from tenants.queues import TenantBroker as _TenantBroker\n"
    "RedisBroker = _with(_TenantBroker, url='redis://127.0.0.1:{port}')\n"
)
#: What their conftest imports for brokers that are not there.
_ABSENT = {
    "pylibmc.py": "SomeErrors = NotFound = Exception\nClient = ClientPool = object\n",
    "pika/__init__.py": "from unittest.mock import MagicMock\n\ndef __getattr__(name): return MagicMock()\n",
    "pika/exceptions.py": "AMQPError = AMQPChannelError = AMQPConnectionError = UnroutableError = Exception\n",
}


def prepare(checkout: Path, folder: Path, port: int) -> None:
    """A copy of the tests with the broker exchanged."""
    tests = folder / "tests"
    shutil.copytree(checkout / "tests", tests)
    for name in ("conftest.py", "test_cli.py"):
        path = tests / name
        text = path.read_text()
        line = "from dramatiq.brokers.redis import RedisBroker\n"
        assert line in text
        text = text.replace(line, _EXCHANGED.format(port=port))
        for backend in ("rl_backends", "res_backends"):
            text = text.replace(f"{backend}.RedisBackend()", f"{backend}.RedisBackend(port={port})")
        for kind in ("rate_limiter", "result"):
            text = text.replace(f"(memcached_{kind}_backend, ", "(")
            text = text.replace(f'        "memcached": memcached_{kind}_backend,\n', "")
        path.write_text(text.replace('params=["memcached", "redis", "stub"]', 'params=["redis", "stub"]'))
    for name, text in _ABSENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def main() -> int:
    checkout, more = Path(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as home:
        folder, data = Path(home) / "suite", Path(home) / "data"
        folder.mkdir()
        data.mkdir()
        server = start_valkey(data)
        try:
            prepare(checkout, folder, server.port)
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
                # A command that reloads itself is called `python` then, and looks there for its own environment.
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            }
            command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), "--timeout", "120"]
            command += ["-q", "-p", "no:cacheprovider", "-k", " and ".join(f"not {name}" for name in LEFT_OUT)]
            command += more or [f"tests/{name}" for name in MODULES]
            return subprocess.run(command, cwd=folder, env=environment, check=False).returncode
        finally:
            server.stop()


if __name__ == "__main__":
    raise SystemExit(main())
