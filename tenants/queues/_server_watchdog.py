"""The server watchdog: runs an embedded server and stops it when its owner dies. `embedded.py` runs it as a script.

    python _server_watchdog.py SERVER_PROGRAM CONFIG

Standard input is a pipe whose other end only the owner has: end of file means that the owner is dead, however it died.
The first line of standard output is the server's process id. If the watchdog dies, the kernel ends the server (Linux:
parent death signal). That signal comes when the *thread* that started the child ends; this process has one thread.

Exit status: the server's own; 0 after the owner's death.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In the child, before it becomes the server."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # A Ctrl-C in the owner's terminal must not end the server before its owner.
    os.setsid()


def main(program: str, config: str) -> int:
    """Runs the server until it or the owner ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    inherited = [int(part) for part in os.environ.get("ONELANE_KEPT_FDS", "").split(",") if part]
    server = subprocess.Popen(
        [program, config],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
        pass_fds=inherited,
    )
    print(server.pid, flush=True)
    while server.poll() is None:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready and signal.SIGTERM in os.read(ended, 512):
            break
        if 0 in ready and not os.read(0, 512):
            break
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        return 0
    return server.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
