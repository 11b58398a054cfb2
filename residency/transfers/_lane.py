"""One drive's queue and the threads that work it off: one transfer at a time, its chunks taken in order by several threads.

A thread lives while there is something to take and ends when there is not; it is a daemon, so a read in progress never holds
up the interpreter's exit. All lanes share one condition: a chunk takes milliseconds, its bookkeeping microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from ..component import Component
from ..events import TransferDone, TransferStopped
from ._backoff import Backoff
from ._chunks import Chunk, Reader
from ._rate import RateMeter


class Transfer:
    """One announced Prefetch until it is answered. `blockers` are drops announced before it: it starts when they are done."""

    def __init__(self, component: Component, size_bytes: int, blockers: tuple[Future[None], ...]) -> None:
        self.component = component
        self.size_bytes = size_bytes
        self.blockers = blockers
        self.parts: list[Part] = []
        self.open_parts = 0
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # an asyncio task that is cancelled must not take the answer with it
        self.answer: TransferDone | TransferStopped | None = None
        self.stop_reason: str | None = None
        self.begun_s: float | None = None
        self.moved_bytes = 0
        self.present_bytes = 0
        self.ending = False  # its answer is on its way: nothing is read any more
        self.answered = False

    def stop(self, reason: str) -> None:
        """The first reason stays."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def finished_bytes(self) -> int:
        """Bytes from the component's start that no thread is reading or will read any more."""
        return min((part.finished_bytes() for part in self.parts), default=0)


class Part:
    """What one transfer reads from one drive."""

    def __init__(self, transfer: Transfer, chunks: list[Chunk]) -> None:
        self.transfer = transfer
        self.chunks = chunks
        self.taken = 0
        self.in_flight: set[int] = set()  # indices
        self.closing = False

    def finished_bytes(self) -> int:
        pending = min(self.in_flight, default=self.taken)
        return self.chunks[pending].offset if pending < len(self.chunks) else self.transfer.size_bytes


class Lane:
    """`finish` is called once for each transfer, on the thread that ended its last part and outside the lock."""

    def __init__(
        self,
        drive: str,
        threads: int,
        buffer_bytes: int,
        condition: threading.Condition,
        clock: Callable[[], float],
        backoff: Backoff,
        finish: Callable[[Transfer], None],
    ) -> None:
        self.drive = drive
        self.rate = RateMeter()
        self.threads: list[threading.Thread] = []
        self._max_threads = threads
        self._buffer_bytes = buffer_bytes
        self._condition = condition
        self._clock = clock
        self._backoff = backoff
        self._finish = finish
        self._queue: list[Part] = []
        self._workers = 0

    def add(self, part: Part) -> None:
        """Queue a part and see that threads are there. The condition must be held."""
        self._queue.append(part)
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        while self._workers < min(self._max_threads, max(1, len(part.chunks))):
            thread = threading.Thread(target=self._work, name=f"residency-read-{self.drive}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the interpreter is shutting down, or the system has no thread left
                if not self._workers:
                    part.transfer.stop(f"no thread to read with: {error}")
                break
            self.threads.append(thread)
            self._workers += 1

    def work_off_without_threads(self) -> None:
        """Answer what is queued on the caller's thread when none could be started. The condition must not be held."""
        with self._condition:
            if self._workers or not self._queue:
                return
            for part in self._queue:
                part.transfer.stop("no thread to read with")
            self._workers += 1
        self._work()

    def _work(self) -> None:
        reader = Reader(self._buffer_bytes)
        try:
            while (job := self._next()) is not None:
                part, index = job
                if index is None:
                    self._close(part)
                else:
                    self._read(part, index, reader)
        finally:
            reader.close()

    def _next(self) -> tuple[Part, int | None] | None:
        """The next chunk to read; or a part to close (no index); or None: nothing is left for this thread, which ends."""
        with self._condition:
            while self._queue:
                for part in self._queue:
                    if part.transfer.stop_reason is not None and not part.in_flight and not part.closing:
                        part.closing = True
                        return part, None
                head = self._queue[0]
                transfer = head.transfer
                if transfer.stop_reason is None and not head.closing and all(drop.done() for drop in transfer.blockers):
                    if head.taken < len(head.chunks):
                        if transfer.begun_s is None:
                            transfer.begun_s = self._clock()
                        head.in_flight.add(head.taken)
                        head.taken += 1
                        return head, head.taken - 1
                    if not head.in_flight:
                        head.closing = True
                        return head, None
                # what is still in the queue has a thread: one that reads its last chunks, closes it, or waits here
                if len(self._queue) == 1 and (head.in_flight or head.closing):
                    break
                self._condition.wait()
            self._workers -= 1
            return None

    def _read(self, part: Part, index: int, reader: Reader) -> None:
        chunk, transfer = part.chunks[index], part.transfer
        present = moved = 0
        reason: str | None = None
        try:
            cached = reader.cached_bytes(chunk)
            if cached == chunk.size_bytes:
                present = chunk.size_bytes
            elif (reason := self._backoff.refusal(chunk.size_bytes)) is None and self._may_go_on(transfer):
                self._measured_read(reader, chunk, chunk.size_bytes - (cached or 0))
                present, moved = chunk.size_bytes, chunk.size_bytes - (cached or 0)
        except Exception as error:
            reason = str(error) if isinstance(error, OSError) else f"{chunk.path}: {type(error).__name__}: {error}"
        with self._condition:
            part.in_flight.discard(index)
            transfer.present_bytes += present
            transfer.moved_bytes += moved
            if reason is not None:
                transfer.stop(reason)
            self._condition.notify_all()

    def _may_go_on(self, transfer: Transfer) -> bool:
        """Wait out a pause; False when the transfer was stopped meanwhile."""
        pause_s = self._backoff.pause()
        with self._condition:
            if pause_s:
                self._condition.wait_for(lambda: transfer.stop_reason is not None, pause_s)
            return transfer.stop_reason is None

    def _measured_read(self, reader: Reader, chunk: Chunk, cold_bytes: int) -> None:
        read_bytes = 0
        with self._condition:
            self.rate.begin(self._clock())
        try:
            reader.read(chunk)
            read_bytes = cold_bytes
        finally:
            with self._condition:
                self.rate.end(self._clock(), read_bytes)

    def _close(self, part: Part) -> None:
        """The part leaves the queue after its transfer's answer: so the answers of one drive come in the order of the queue."""
        transfer = part.transfer
        with self._condition:
            transfer.open_parts -= 1
            last = transfer.ending = transfer.open_parts == 0
        if last:
            self._finish(transfer)
        with self._condition:
            self._queue.remove(part)
            self._condition.notify_all()
