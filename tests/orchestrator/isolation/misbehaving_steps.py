"""Steps that end well, badly or not at all. They are imported by the zygote and run in children.

Each takes a `Bench`, which is what `bench` builds from the call's context; none needs onelane's own context.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actors import Retry, StepContext
from actors.errors import LoginRequired
from actors.signals import ProviderBusy, Reject, Snooze
from orchestrator.isolation.child import WorkerPort


@dataclass
class Bench:
    context: dict[str, Any]
    port: WorkerPort


def bench(context: dict[str, Any], port: WorkerPort) -> Bench:
    return Bench(context, port)


class Word(BaseModel):
    word: str


def with_real_context(ctx: StepContext[Word]) -> dict[str, Any]:
    ctx.progress(50, "half")
    return {"account": ctx.account, "word": ctx.input.word, "cancelled": ctx.cancelled}


def echo(b: Bench) -> Any:
    return b.context["value"]


def ask(b: Bench) -> Any:
    return b.port.call(b.context["name"], b.context["payload"])


def surroundings(b: Bench) -> dict[str, Any]:
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listdir itself had open
    supervisor = os.getppid()
    zygote = int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    environments = {
        str(pid): Path(f"/proc/{pid}/environ").read_bytes().decode() for pid in (os.getpid(), supervisor, zygote)
    }
    Path("left-behind.txt").write_text("x")
    return {
        "environ": dict(os.environ),
        "proc_environ": environments,
        "descriptors": descriptors,
        "pid": os.getpid(),
        "session": os.getsid(0),
        "cwd": os.getcwd(),
        "tempdir": tempfile.gettempdir(),
        "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "sigterm_default": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "core_limit": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "preloaded": "tests.orchestrator.isolation.misbehaving_steps" in sys.modules,
    }


def raise_value_error(b: Bench) -> None:
    raise ValueError("no good \udcff")


def raise_step_error(b: Bench) -> None:
    raise LoginRequired("sign in by hand")


def raise_unprintable(b: Bench) -> None:
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    raise Nasty


def call_sys_exit(b: Bench) -> None:
    sys.exit(3)


def recurse(b: Bench) -> None:
    recurse(b)


def raise_signal(b: Bench) -> None:
    match b.context["kind"]:
        case "retry":
            raise Retry(after=4.5)
        case "snooze":
            raise Snooze(datetime(2030, 1, 2, tzinfo=UTC))
        case "reject":
            raise Reject("never", code="content_blocked")
        case _:
            raise ProviderBusy(27, "gemini:3f2a")


def loop_in_python(b: Bench) -> None:
    report_running(b)
    while True:
        pass


def loop_in_regex(b: Bench) -> None:
    """A C call that never releases the GIL, so that no thread or signal handler of the child runs again."""
    report_running(b)
    re.match(r"(a+)+$", "a" * 64 + "b")


def loop_in_c_without_the_gil(b: Bench) -> None:
    """A C call of half an hour that has released the GIL: other threads run, the step's own never comes back."""
    report_running(b)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def sleep_holding_the_gil(b: Bench) -> None:
    report_running(b)
    ctypes.PyDLL(None).sleep(600)


def ignore_everything(b: Bench) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    report_running(b)
    while True:
        time.sleep(60)


def daemonize(b: Bench) -> None:
    """A grandchild with its own session, whose parent is dead, deaf to orderly signals and with nested children."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_IGN)
            inner = os.fork()
            os.write(writer, f"{os.getpid()}\n".encode())
            if inner:
                os.environ.clear()
            while True:
                time.sleep(60)
        os._exit(0)
    pids: list[int] = []
    data = b""
    while data.count(b"\n") < 2:
        data += os.read(reader, 100)
    pids = [int(line) for line in data.split()]
    b.port.call("pids", {"pids": [*pids, os.getpid()]})
    if b.context.get("return"):
        return
    while True:
        time.sleep(60)


def ignore_everything_in_a_daemon(b: Bench) -> None:
    """Like `daemonize`, with the environment kept."""
    supervisor = os.getppid()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [subprocess.Popen(command, start_new_session=True).pid for _ in range(2)]
    b.port.call("pids", {"pids": [*pids, os.getpid()], "supervisor": supervisor})
    while True:
        time.sleep(60)


def fork_without_end(b: Bench) -> None:
    """A tree in which parents replace what dies, faster than anybody could kill one by one."""
    report_running(b)
    for _ in range(6):
        if os.fork() == 0:
            while True:
                pid = os.fork()
                if pid == 0:
                    time.sleep(0.02)
                    os._exit(0)
                os.waitpid(pid, 0)
    while True:
        time.sleep(60)


def die_by(b: Bench) -> None:
    print("famous last words", flush=True)
    os.kill(os.getpid(), b.context["signal"])
    time.sleep(60)


def exit_at_once(b: Bench) -> None:
    sys.stdout.write("unflushed, but a line\n")
    os._exit(3)


def segfault(b: Bench) -> None:
    faulthandler.enable()
    ctypes.string_at(0)


def overflow_the_stack(b: Bench) -> None:
    """Recursion through C frames, which the interpreter does not count once its limit is lifted."""
    sys.setrecursionlimit(10**9)

    class Deep:
        def __repr__(self) -> str:
            return repr([self])

    repr(Deep())


def return_not_json(b: Bench) -> Any:
    return {"values": [{1, 2}, float("nan")][b.context["which"]]}


def return_huge(b: Bench) -> str:
    size: int = b.context["size"]
    return "x" * size


def ask_huge(b: Bench) -> Any:
    return b.port.call("big", {"data": "x" * b.context["size"]})


def ask_from_threads(b: Bench) -> list[Any]:
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(b.port.call("double", {"n": n})["n"])) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(answers)


def write_garbage(b: Bench) -> None:
    control = next(fd for fd in range(3, 64) if _is_socket(fd))
    os.write(control, b"\xff\xff\xff\xff garbage")
    time.sleep(60)


def close_everything(b: Bench) -> None:
    os.closerange(0, 256)
    time.sleep(60)


def chatter(b: Bench) -> None:
    for number in range(20_000):
        print("line", number, "x" * 50)
    os._exit(9)


def until_cancelled(b: Bench) -> str:
    report_running(b)
    while not b.port.call("cancelled", {}):
        time.sleep(0.02)
    try:
        b.port.call("late", {})
    except Exception as error:
        b.context["seen"] = error
        if b.context.get("return"):
            return f"{type(error).__name__} {getattr(error, 'code', None)}"
        raise
    return "the late call was answered"


def allocate(b: Bench) -> None:
    kept = []
    while True:
        kept.append(bytearray(8 << 20))
        time.sleep(b.context["pause"])


def allocate_in_grandchildren(b: Bench) -> None:
    code = "import time; kept = bytearray(60 << 20); time.sleep(600)"
    for _ in range(4):
        subprocess.Popen([sys.executable, "-c", code])
    while True:
        time.sleep(60)


def spoil_tmpdir(b: Bench) -> None:
    base = Path(tempfile.mkdtemp()) / "a" / "b"
    base.mkdir(parents=True)
    (base / "file").write_text("x")
    os.symlink(b.context["outside"], base / "link")
    os.chmod(base, 0)
    os.chmod(base.parent, 0o500)
    report_running(b)
    while True:
        time.sleep(60)


def frozen_browser(b: Bench) -> None:
    """A Chromium that was stopped by SIGSTOP under a call that has no time-out of its own."""
    from playwright.sync_api import sync_playwright

    flags = "--no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage --no-first-run"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=b.context["executable"], args=flags.split())
        page = browser.new_page()
        page.set_content("<h1>here</h1>")
        pids, browsers, sessions = [], [], set()
        for record in _below(os.getpid()):
            pid = record.identity.pid
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has left since it was seen
                sessions.add(os.getsid(pid))
                if "--headless" in Path(f"/proc/{pid}/cmdline").read_text():
                    browsers.append(pid)
                pids.append(pid)
        b.port.call("pids", {"pids": [os.getpid(), *pids], "sessions": sorted(sessions)})
        for pid in browsers:
            os.kill(pid, signal.SIGSTOP)
        page.evaluate("1 + 1")


def _below(pid: int) -> list[Any]:
    from orchestrator.isolation.process_tree import descendants, snapshot

    return descendants([pid], snapshot())


def _is_socket(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


def report_running(b: Bench) -> None:
    """Let the test know that the step is running, and in which process."""
    b.port.call("running", {"pid": os.getpid(), "supervisor": os.getppid()})
