"""The step's own process: waits for a call, runs the step's function, sends the result, exits.

It is forked in advance (a warm spare) and runs exactly one call, so no data of one account is left for the next. It has
standard input from /dev/null, standard output and error on a pipe to the worker, one connection to the worker, and no
other descriptor. It sends only plain data.

Messages: ``call {…}`` ← worker, once; then ``ask {name, payload}`` → worker, answered by ``answer`` or ``refusal``, any
number of times; ``note {name, payload}`` → worker, not answered; ``result {kind, …}`` → worker, once and last. If the
call names a verb under ``enter``, the child asks it right before it enters the step's function, and does not enter if
it is refused.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from actors.context import StepContext
from actors.errors import InvalidCall, StepError
from actors.step import encode_output
from orchestrator.isolation.frames import encode, read_frame, write_frame
from orchestrator.isolation.outcome import error_to_wire, unusable_to_wire
from orchestrator.isolation.posix import name_process, prefer_for_oom_kill

#: Exit status when the worker's connection broke, so that the result could not be sent.
WORKER_GONE_STATUS = 70


def run(control: int, output: int) -> NoReturn:
    """Entry of the child, directly after its fork. Never returns."""
    status = WORKER_GONE_STATUS
    try:
        name_process("onelane-step")
        os.setsid()
        _reset_dispositions()
        _redirect_output(output)
        connection = socket.socket(fileno=control)
        connection.set_inheritable(False)
        connection.setblocking(True)
        try:
            call = read_frame(connection)["call"]
        except (EOFError, OSError):
            os._exit(0)  # a spare that was never used
        _prepare_process(call)
        result = perform(call, WorkerPort(connection, call["max_call_bytes"]))
        _flush()
        write_frame(connection, {"result": result})
        status = 0
    except BaseException:
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        with suppress(BaseException):
            _flush()
        # Not sys.exit: threads and exit handlers of libraries could keep a finished step from ending.
        os._exit(status)


def _reset_dispositions() -> None:
    """Undo the supervisor's ignored signals, which the step's programs would inherit even through exec."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)


def _redirect_output(output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    # New objects: the zygote's belong to its own output, perhaps a file with a position.
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, errors="backslashreplace", closefd=False) for fd in (1, 2))  # noqa: SIM115
    faulthandler.enable(sys.stderr)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _prepare_process(call: dict[str, Any]) -> None:
    """Set the process's directory and limits, before any code of the step runs."""
    os.chdir(call["tmpdir"])
    for name in ("TMPDIR", "TMP", "TEMP"):
        os.environ[name] = call["tmpdir"]
    tempfile.tempdir = None  # the zygote may have cached its own
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prefer_for_oom_kill()


class WorkerPort:
    """The child's `actors.port.Port`, over the connection to the worker.

    Safe to use from several threads; calls are answered one at a time. A message is in the worker's socket when `send`
    returns, so it arrives even if the process is killed right after.
    """

    def __init__(self, connection: socket.socket, max_call_bytes: int) -> None:
        self._connection = connection
        self._max_call_bytes = max_call_bytes
        self._lock = threading.Lock()

    def call(self, name: str, payload: dict[str, Any]) -> Any:
        """Call the worker and wait for its answer.

        Raises:
            StepError: the worker's refusal; `InvalidCall` for data that cannot be sent.
        """
        ask = self._frame("ask", name, payload)
        with self._lock, _exit_without_worker():
            self._connection.sendall(ask)
            reply = read_frame(self._connection)
        if "refusal" in reply:
            raise refusal_error(reply["refusal"])
        return reply["answer"]

    def send(self, name: str, payload: dict[str, Any]) -> None:
        """Send a one-way message. Raises InvalidCall for data that cannot be sent."""
        note = self._frame("note", name, payload)
        with self._lock, _exit_without_worker():
            self._connection.sendall(note)

    def _frame(self, kind: str, name: str, payload: dict[str, Any]) -> bytes:
        try:
            frame = encode({kind: {"name": name, "payload": payload}})
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidCall(f"{name}: the payload is not JSON: {error}") from None
        if len(frame) > self._max_call_bytes:
            raise InvalidCall(f"{name}: {len(frame)} bytes, where a call may have {self._max_call_bytes}")
        return frame


@contextmanager
def _exit_without_worker() -> Iterator[None]:
    """Exit when the connection breaks: without a worker, no further result of the step would count."""
    try:
        yield
    except (EOFError, OSError) as error:
        print(f"the worker has gone: {error}", file=sys.stderr)
        _flush()
        os._exit(WORKER_GONE_STATUS)


def refusal_error(refusal: dict[str, Any]) -> Exception:
    """The exception for a refused call: the class of `actors.errors` with its code, or a new `StepError` class."""
    wanted = (refusal["code"], refusal["permanent"])
    for known in _error_classes(StepError):
        if (known.code, known.permanent) == wanted:
            return known(refusal["message"])
    made: type[StepError] = type(
        "CallRefused", (StepError,), {"code": refusal["code"], "permanent": refusal["permanent"]}
    )
    return made(refusal["message"])


def _error_classes(base: type[StepError]) -> Iterator[type[StepError]]:
    """`base` and its subclasses in `actors.errors`, from the top."""
    yield base
    for subclass in base.__subclasses__():
        if subclass.__module__ == base.__module__:
            yield from _error_classes(subclass)


def build_step_context(context: dict[str, Any], port: WorkerPort) -> Any:
    """The default `build_context`: a `StepContext`; ``context["input_model"]`` names the model as ``module:Class``."""
    return StepContext.from_wire(context, resolve(context["input_model"]), port)


def resolve(reference: str) -> Any:
    """The object named by ``module:attribute.path``."""
    module, _, path = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def perform(call: dict[str, Any], port: WorkerPort) -> dict[str, Any]:
    """Run the step; its result as plain data for `outcome.from_wire`."""
    try:
        function = resolve(f"{call['module']}:{call['function']}")
        context = resolve(call["build_context"])(call["context"], port)
        try:
            if call["enter"] is not None:
                port.call(call["enter"], {})
            value = function(context)
        finally:
            if isinstance(context, StepContext):
                context.close()
    except MemoryError:
        return {"kind": "out_of_memory", "message": "an allocation was refused (MemoryError)"}
    except BaseException as error:
        return error_to_wire(error)
    try:
        encode_output(value, call["max_result_bytes"])
    except InvalidCall as error:
        return unusable_to_wire(str(error))
    except MemoryError:
        return {"kind": "out_of_memory", "message": "no memory was left to encode the result"}
    return {"kind": "completed", "value": value}
