"""Dramatiq's signals: the broker's own hooks, and the quick call of everybody's.

A signal is an event for which middleware can have a method: `before_process_message`, `after_worker_shutdown`, and so
on. The broker's own hooks are not in its list of middleware, because that list is the user's: `middleware=[]` stays
empty, and `add_middleware(before=...)` finds the positions it expects. They run first before an event and last after
it, so that what other middleware enqueues after a message inherits the message's account.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from dramatiq import Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from dramatiq.worker import ConsumerThread

from .message import LeasedMessage, set_current_message
from .worker_state import WorkerState

Hook = Callable[..., None]


class WorkerHooks:
    """The broker's own hooks: they keep `WorkerState` and the current message up to date."""

    def __init__(self, worker: WorkerState, stop_claiming: Callable[[], None]) -> None:
        self._worker = worker
        self._stop_claiming = stop_claiming

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._worker.begin(worker)

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:
        self._worker.add_consumer_thread(thread)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._worker.stopping = True
        self._stop_claiming()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._worker.end()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if isinstance(message, LeasedMessage):
            message.thread_id = threading.get_ident()
            set_current_message(message)

    def after_process_message(self, broker: Broker, message: MessageProxy, **outcome: Any) -> None:
        set_current_message(None)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        set_current_message(None)


class HookLists:
    """The hooks of each signal that do something.

    Dramatiq calls every middleware at every signal. Most of these hooks are empty, and a message has four signals:
    calling them all took a tenth of a message's time.
    """

    def __init__(self, own: WorkerHooks) -> None:
        self._own = own
        self._middleware: list[Middleware] = []
        self._hooks: dict[str, list[tuple[Any, Hook]]] = {}

    def of(self, signal: str, middleware: Sequence[Middleware]) -> list[tuple[Any, Hook]]:
        """(middleware, hook) for a signal such as `before_enqueue`, in the order in which they run."""
        if self._middleware != middleware:
            self._middleware, self._hooks = list(middleware), {}
        hooks = self._hooks.get(signal)
        if hooks is None:
            empty = getattr(Middleware, signal, None)
            hooks = [
                (each, hook)
                for each in (self._own, *middleware)
                if (hook := getattr(each, signal, None)) is not None and getattr(hook, "__func__", None) is not empty
            ]
            if signal.startswith("after_"):
                hooks.reverse()
            self._hooks[signal] = hooks
        return hooks
