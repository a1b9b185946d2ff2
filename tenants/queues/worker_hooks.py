"""What the broker hears of Dramatiq's worker and of the messages that it processes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dramatiq import Worker
from dramatiq.broker import MessageProxy
from dramatiq.worker import ConsumerThread

from .message import LeasedMessage, set_current_message

if TYPE_CHECKING:
    from .broker import TenantBroker


class WorkerHooks:
    """What the broker must hear of Dramatiq's worker: hooks named as a middleware's, and only those it needs."""

    __slots__ = ()

    def before_worker_boot(self, broker: TenantBroker, worker: Worker) -> None:
        broker.begin_work(worker)

    def after_consumer_thread_boot(self, broker: TenantBroker, thread: ConsumerThread) -> None:
        broker.add_thread(thread)

    def before_worker_shutdown(self, broker: TenantBroker, worker: Worker) -> None:
        broker.begin_stop()

    def after_worker_shutdown(self, broker: TenantBroker, worker: Worker) -> None:
        broker.end_work()

    def before_process_message(self, broker: TenantBroker, message: MessageProxy) -> None:
        if isinstance(message, LeasedMessage):
            message.thread_id = threading.get_ident()
            set_current_message(message)

    def after_process_message(
        self,
        broker: TenantBroker,
        message: MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        set_current_message(None)

    def after_skip_message(self, broker: TenantBroker, message: MessageProxy) -> None:
        set_current_message(None)
