"""One drive's queue and the threads that work it off: one transfer at a time, its chunks taken in order by several threads.

A thread lives while there is something to take and ends when there is not; it is a daemon, so a read in progress never holds
up the interpreter's exit. All lanes share one condition: a chunk takes milliseconds, its bookkeeping microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from ..core.component import Component
from ..core.events import TransferDone, TransferStopped
from ._backoff import Backoff
from ._chunks import Chunk, Reader, joined, runs
from ._rate import RateMeter
from ._sampling import Found, sampled
from .turns import LOOK_S, turn_of


class Transfer:
    """One announced Prefetch until it is answered. `blockers` are drops announced before it: it starts when they are done. `is_first`:
    nobody has asked for the component before. `crowded()`: whether the system will have to drop pages of the page cache for others."""

    def __init__(
        self, component: Component, size_bytes: int, blockers: tuple[Future[None], ...], *, is_first: bool, crowded: Callable[[], bool]
    ) -> None:
        self.is_first, self._crowded = is_first, crowded
        self._uses: bool | None = None  # None before it has begun
        self.component = component
        self.size_bytes = size_bytes
        self.asked_bytes = 0  # of its chunks
        self.blockers = blockers
        self.parts: list[Part] = []
        self.open_parts = 0
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # an asyncio task that is cancelled must not take the answer with it
        self.answer: TransferDone | TransferStopped | None = None
        self.stop_reason: str | None = None
        self.failed = False  # its files cannot be read
        self.begun_s: float | None = None
        self.moved_bytes = 0
        self.present_bytes = 0
        self.read_bytes = 0
        self.ending = False  # its answer is on its way: nothing is read any more
        self.answered = False

    def uses(self) -> bool:
        """Whether its pages are used once more when they are there; as it was when it began."""
        if self._uses is None:
            self._uses = self._crowded()
        return self._uses

    def stop(self, reason: str, *, failed: bool = False) -> None:
        """The first reason stays."""
        if self.stop_reason is None:
            self.stop_reason, self.failed = reason, failed

    def finished_bytes(self) -> int:
        """Bytes from the component's start that no thread is reading or will read any more."""
        return min((part.finished_bytes() for part in self.parts), default=0)


class Part:
    """The part of one transfer that lies on one drive. A probe first finds the chunks that are not cached, then those are read.

    The probe is of the whole part, before its first read: the kernel's own read-ahead puts pages of the next chunks into the
    cache, so a probe between reads would find half of them "cached" that are only on their way (one thread, 8 MiB read_ahead_kb).
    """

    def __init__(self, transfer: Transfer, chunks: list[Chunk]) -> None:
        self.transfer = transfer
        self.chunks = chunks
        # of each chunk that is left to read, None where that cannot be known; None in all before the probe
        self.cold_bytes: list[int | None] | None = None
        self.probing = False
        self.has_turn = False
        self.taken = 0
        self.in_flight: set[int] = set()  # indices
        self.closing = False

    def busy(self) -> bool:
        return self.probing or bool(self.in_flight) or self.closing

    def finished_bytes(self) -> int:
        if self.cold_bytes is None:
            return 0
        pending = min(self.in_flight, default=self.taken)
        return self.chunks[pending].offset if pending < len(self.chunks) else self.transfer.size_bytes


class Lane:
    """`finish` is called once for each transfer, on the thread that ended its last part and outside the lock."""

    def __init__(
        self,
        drive: str,
        threads: int,
        condition: threading.Condition,
        clock: Callable[[], float],
        backoff: Backoff,
        finish: Callable[[Transfer], None],
    ) -> None:
        self.drive = drive
        self.rate = RateMeter()
        self.threads: list[threading.Thread] = []
        self.max_threads = threads  # a number that is lowered holds from each thread's next step on
        self._condition = condition
        self._clock = clock
        self._backoff = backoff
        self._finish = finish
        self._queue: list[Part] = []
        self._workers = 0
        self._turn = turn_of(drive)

    def add(self, part: Part) -> None:
        """Queue a part and see that a thread is there. The condition must be held."""
        self._queue.append(part)
        self._staff(1)

    def work_off_without_threads(self) -> None:
        """Answer the queued transfers on the caller's thread when none could be started. The condition must not be held."""
        with self._condition:
            if self._workers or not self._queue:
                return
            for part in self._queue:
                part.transfer.stop("no thread to read with")
            self._workers += 1
        self._work()

    def _staff(self, count: int) -> None:
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        while self._workers < min(self.max_threads, count):
            thread = threading.Thread(target=self._work, name=f"residency-read-{self.drive}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down, or the system has no thread left: fewer must do
                return
            self.threads.append(thread)
            self._workers += 1

    def _work(self) -> None:
        reader = Reader()
        try:
            while (step := self._next()) is not None:
                step(reader)
        finally:
            reader.close()

    def _next(self) -> Callable[[Reader], None] | None:
        """The next thing to do; None: nothing is left for this thread, which ends."""
        with self._condition:
            while self._queue and self._workers <= self.max_threads:
                for part in self._queue:
                    if part.transfer.stop_reason is not None and not part.busy():
                        part.closing = True
                        return partial(self._close, part)
                head = self._queue[0]
                step = self._step(head)
                if step is not None:
                    return step
                # a transfer still in the queue has a thread: one that probes, reads its last chunks, closes it, or waits here
                if len(self._queue) == 1 and head.busy() and not head.probing:
                    break
                self._condition.wait(LOOK_S if self._turn is not None and head.cold_bytes is None else None)
            self._workers -= 1
            return None

    def _step(self, head: Part) -> Callable[[Reader], None] | None:
        """The next step of the head of the queue; None while there is none to take."""
        transfer = head.transfer
        if transfer.stop_reason is not None or head.probing or head.closing or not all(drop.done() for drop in transfer.blockers):
            return None
        if head.cold_bytes is None:
            if self._turn is not None:
                if not self._turn.take():
                    return None
                head.has_turn = True
            if transfer.begun_s is None:
                transfer.begun_s = self._clock()
            head.probing = True
            return partial(self._probe, head)
        if head.taken < len(head.chunks):
            head.in_flight.add(head.taken)
            head.taken += 1
            return partial(self._read, head, head.taken - 1)
        if head.in_flight:
            return None
        head.closing = True
        return partial(self._close, head)

    def _probe(self, part: Part, reader: Reader) -> None:
        cold: list[tuple[Chunk, int | None]] = []
        present = 0
        uses_cached = part.transfer.is_first and part.transfer.uses()
        reason: str | None = None
        for run in runs(part.chunks):
            if part.transfer.stop_reason is not None:
                break
            try:
                asked = _cached(run, reader, self._clock)
            except BaseException as error:  # a thread that died of it would leave its part in flight for ever
                reason = _reason(run[0], error)
                break
            left = [(chunk, None if cached is None else chunk.size_bytes - cached) for chunk, cached in asked]
            if not uses_cached:
                present += sum(chunk.size_bytes for chunk, cold_bytes in left if cold_bytes == 0)
            cold += [one for one in left if uses_cached or one[1] != 0]
        with self._condition:
            part.chunks = [chunk for chunk, _ in cold]
            part.cold_bytes = [cold_bytes for _, cold_bytes in cold]
            part.transfer.present_bytes += present
            part.probing = False
            if reason is not None:
                part.transfer.stop(reason, failed=True)
            if part.transfer.stop_reason is None:  # whoever stopped it may be joining the threads that there are
                self._staff(len(cold))
            self._condition.notify_all()

    def _read(self, part: Part, index: int, reader: Reader) -> None:
        chunk, transfer = part.chunks[index], part.transfer
        present = moved = read = 0
        reason: str | None = None
        failed = False
        try:
            cold_bytes = part.cold_bytes[index] if part.cold_bytes is not None else 0
            reason = self._backoff.refusal(chunk.size_bytes) if cold_bytes != 0 else None
            if reason is None and self._may_go_on(transfer):
                read = self._measured_read(reader, chunk, cold_bytes) if cold_bytes != 0 else 0
                present, moved = chunk.size_bytes, chunk.size_bytes if cold_bytes is None else cold_bytes
                if transfer.uses():
                    with suppress(OSError):  # it has been read all the same
                        reader.use(chunk)
        except BaseException as error:  # as above
            reason, failed = _reason(chunk, error), True
        with self._condition:
            part.in_flight.discard(index)
            transfer.present_bytes += present
            transfer.moved_bytes += moved
            transfer.read_bytes += read
            if reason is not None:
                transfer.stop(reason, failed=failed)
            self._condition.notify_all()

    def _may_go_on(self, transfer: Transfer) -> bool:
        """Wait out a pause; False when the transfer was stopped meanwhile."""
        pause_s = self._backoff.pause()
        with self._condition:
            if pause_s:
                self._condition.wait_for(lambda: transfer.stop_reason is not None, pause_s)
            return transfer.stop_reason is None

    def _measured_read(self, reader: Reader, chunk: Chunk, cold_bytes: int | None) -> int:
        """The bytes read. Only a chunk that is known to be wholly cold says how fast the drive is: one with gaps costs the latency of each
        gap, one that may be cached the time of a copy."""
        if cold_bytes is None:
            reader.read(chunk)
            return chunk.size_bytes
        if cold_bytes < chunk.size_bytes:
            return reader.read_gaps(chunk)
        read_bytes = 0
        with self._condition:
            self.rate.begin(self._clock())
        try:
            reader.read(chunk)
            read_bytes = chunk.size_bytes
        finally:
            with self._condition:
                self.rate.end(self._clock(), read_bytes)
        return read_bytes

    def _close(self, part: Part, reader: Reader) -> None:
        """The part leaves the queue after its transfer's answer: so the answers of one drive come in the order of the queue."""
        transfer = part.transfer
        with self._condition:
            if part.has_turn and self._turn is not None:
                self._turn.give_back()
            transfer.open_parts -= 1
            last = transfer.open_parts == 0 and not transfer.ending
            transfer.ending = transfer.ending or last
        if last:
            self._finish(transfer)
        with self._condition:
            self._queue.remove(part)
            self._condition.notify_all()


def _cached(run: Sequence[Chunk], reader: Reader, clock: Callable[[], float]) -> list[tuple[Chunk, int | None]]:
    """Each chunk of the run with its bytes that are cached, None where that cannot be known. A run in part cached is asked about by halves:
    a file is mostly cached or cold as a whole, and each question waits for the interpreter."""
    size_bytes, cached = sum(chunk.size_bytes for chunk in run), reader.cached_bytes(joined(run))
    if cached is None:
        share = {Found.CACHED: 1, Found.COLD: 0}
        asked = zip(run, sampled(run, reader, clock), strict=True)
        return [(chunk, chunk.size_bytes * share[found] if found in share else None) for chunk, found in asked]
    if cached in (0, size_bytes):
        return [(chunk, chunk.size_bytes if cached else 0) for chunk in run]
    if len(run) == 1:
        return [(run[0], cached)]
    half = len(run) // 2
    return _cached(run[:half], reader, clock) + _cached(run[half:], reader, clock)


def _reason(chunk: Chunk, error: BaseException) -> str:
    """An error in words that name the file; an OSError of the reader does already."""
    return str(error) if isinstance(error, OSError) else f"{chunk.path}: {type(error).__name__}: {error}"
