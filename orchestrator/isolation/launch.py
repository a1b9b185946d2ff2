"""Starts guard and zygote: new interpreters with a clean environment, and a session and a connection of their own.

Of the worker's descriptors they get only the heartbeat's. exec, not fork: a fork would carry the worker's memory, its
secrets in /proc/<pid>/environ, its database sockets and the state of its other threads.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from orchestrator.isolation.heartbeat import Heartbeat

# -P keeps the working directory off the path until ours replaces it: a json.py in it must not be loaded.
_BOOT = (
    "import json, sys; config = json.loads(sys.argv[2]); sys.path[:] = config['sys_path']; "
    "from importlib import import_module; import_module(sys.argv[1]).main(config)"
)


def launch(
    module: str, config: Mapping[str, Any], environment: Mapping[str, str], heartbeat: Heartbeat
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Run ``module.main(config)`` in a new interpreter; return it with our end of its connection.

    `config` is plain data and visible in ps, so it holds no secrets; ``socket``, ``heartbeat`` (descriptors) and
    ``sys_path`` are added to it.
    """
    ours, theirs = socket.socketpair()
    try:
        passed = {"socket": theirs.fileno(), "heartbeat": heartbeat.fileno()}
        full = {**config, **passed, "sys_path": [os.path.abspath(path) for path in sys.path]}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, module, json.dumps(full)],
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            close_fds=True,
            pass_fds=list(passed.values()),
            start_new_session=True,  # Ctrl-C in the worker's terminal must not reach a running step
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours
