"""Items from many threads, run in batches: a commit, a flush to disk or a round trip is paid once for several.

A caller that finds nothing queued or running runs its own item at once. Items that arrive meanwhile are queued, and one
batch thread runs them, batch after batch, until the queue is empty. Nothing waits for a batch to become larger.

Invariants: each item is run once and answered once; one batch runs at a time; the item that has waited longest is in
the next batch; no failure leaves an item without an answer.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH_SIZE = 32
#: Seconds without work after which the batch thread ends.
IDLE_SECONDS = 5.0


class BatchFailed(Exception):
    """The batch that held this item failed as a whole, in a way that nobody expected; its outcome is unknown."""


class BatchExecutor(Generic[T, R]):
    """Runs single items from any thread through a function that takes several."""

    def __init__(
        self,
        run_batch: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        key: Callable[[T], Hashable] | None = None,
        max_batch_size: int = MAX_BATCH_SIZE,
    ) -> None:
        """Start nothing yet.

        Args:
            run_batch: takes items, and returns an answer or an exception for each, in their order.
            key: only items with equal keys share a batch; without it all do.
            max_batch_size: most items in a batch.
        """
        self._run_batch = run_batch
        self._key = key
        self._max_batch_size = max_batch_size
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._queue: deque[tuple[T, Future[R]]] = deque()
        #: A batch is running, or the batch thread has been asked to run the queue.
        self._busy = False
        self._thread: threading.Thread | None = None
        #: The batch thread, from when it is asked to run the queue until the queue is empty.
        self._drainer: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """Items that wait for the running batch to end."""
        return len(self._queue)

    def run(self, item: T) -> R:
        """The answer for the item.

        Raises:
            BatchFailed: see there.
            Exception: what `run_batch` returned for the item, or raised while it ran this item only.
        """
        if self._pid != os.getpid():
            self._reset()  # after a fork the queue, its lock and the batch thread are the parent's
        future: Future[R] = Future()
        with self._changed:
            inline = not self._busy
            self._busy = True
            if not inline:
                self._queue.append((item, future))
        if inline:
            self._finish([(item, future)])
            self._drain_in_thread()
        return future.result()

    def close(self) -> None:
        """End the batch thread once the queue is empty. A later `run` starts it again."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None and self._pid == os.getpid() and thread is not threading.current_thread():
            thread.join()

    def _finish(self, batch: Sequence[tuple[T, Future[R]]]) -> None:
        """Run a batch, and answer each of its items."""
        answers: Sequence[R | BaseException]
        try:
            answers = self._run_batch([item for item, _ in batch])
            if len(answers) != len(batch):
                raise AssertionError(f"{len(answers)} answers for {len(batch)} items")
        except BaseException as error:
            if len(batch) == 1:
                answers = [error]
            else:
                log.exception("a batch of %d items failed, and their outcome is unknown", len(batch))
                answers = [BatchFailed(f"the batch failed ({error!r}); its outcome is unknown") for _ in batch]
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _drain_in_thread(self) -> None:
        """Ask the batch thread to run what was queued while this thread ran its own item."""
        with self._changed:
            if not self._queue:
                self._busy = False
                return
            if self._thread is not None:
                self._drainer = self._thread
                self._changed.notify_all()
                return
            thread = threading.Thread(target=self._work, name="batches", daemon=True)
            self._drainer = self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads, or the interpreter is ending
            self._thread = None
            self._drain()

    def _work(self) -> None:
        """The batch thread."""
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._drainer is me or self._thread is not me, IDLE_SECONDS)
                if self._drainer is not me:
                    if self._thread is me:
                        self._thread = None
                    return
            self._drain()

    def _drain(self) -> None:
        while batch := self._next_batch():
            self._finish(batch)

    def _next_batch(self) -> list[tuple[T, Future[R]]]:
        """The item that has waited longest, with others of its key; empty once nothing is queued."""
        with self._changed:
            if not self._queue:
                self._busy, self._drainer = False, None
                return []
            key_of = self._key or (lambda _: None)
            key = key_of(self._queue[0][0])
            batch: list[tuple[T, Future[R]]] = []
            others: list[tuple[T, Future[R]]] = []
            for entry in self._queue:
                fits = len(batch) < self._max_batch_size and key_of(entry[0]) == key
                (batch if fits else others).append(entry)
            self._queue = deque(others)
            return batch
