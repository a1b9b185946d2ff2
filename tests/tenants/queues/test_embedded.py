"""The embedded server: one a directory, data kept, gone with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from tenants.queues import EmbeddedServerFailed, EmbeddedValkey
from tests.tenants.queues.conftest import eventually

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

OWNER = """
import sys, time, threading
from pathlib import Path
from tenants.queues import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]))
thread = threading.Thread(target=server.start)  # a thread that ends: the server must not end with it
thread.start()
thread.join()
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


def start_owner(directory: Path) -> tuple[subprocess.Popen[str], int, str]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(directory)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, url = owner.stdout.readline().split()
    return owner, int(pid), url


def test_it_serves_on_a_private_socket_and_keeps_its_data(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "data") as server:
        client = redis.Redis.from_url(server.url)
        assert (tmp_path / "data" / "valkey.sock").stat().st_mode & 0o077 == 0
        client.set("kept", "yes")
        client.close()
        pid = server.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with EmbeddedValkey(tmp_path / "data", port=0) as again:
        assert again.url.startswith("redis://127.0.0.1:")
        client = redis.Redis.from_url(again.url)
        assert client.get("kept") == b"yes"
        client.close()


def test_a_long_path_gets_a_port(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    with EmbeddedValkey(deep) as server:
        assert server.url.startswith("redis://127.0.0.1:")


def test_no_server_outlives_a_killed_owner(tmp_path: Path) -> None:
    owner, pid, url = start_owner(tmp_path)
    client = redis.Redis.from_url(url)
    client.set("kept", "yes")
    client.close()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()
    # The next owner does not have to wait until the last server is gone: it waits itself.
    with EmbeddedValkey(tmp_path) as server:
        client = redis.Redis.from_url(server.url)
        assert client.get("kept") == b"yes"
        client.close()
    eventually(lambda: not psutil.pid_exists(pid))


def test_no_server_outlives_its_killed_watchdog(tmp_path: Path) -> None:
    owner, pid, _ = start_owner(tmp_path)
    watchdog = psutil.Process(pid).ppid()
    os.kill(watchdog, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(pid))
    owner.kill()
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()


def test_two_servers_never_share_a_directory(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path), pytest.raises(EmbeddedServerFailed, match="still holds"):
        EmbeddedValkey(tmp_path, wait_seconds=0.2).start()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    (directory / "appendonlydir").mkdir(parents=True)
    (directory / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EmbeddedServerFailed, match="manifest"):
        EmbeddedValkey(directory).start()
