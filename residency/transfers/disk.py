"""The mover between disk and host: reads components into the page cache ahead of their use, and gives them back.

The life of a transfer: `prefetch` queues it on the lane of each drive that it reads from -> the lane's threads take its chunks in order,
skip those that are cached, read the others -> TransferDone, or TransferStopped with the bytes moved by then. `cancel` ends it within one
chunk, `close(wait=False)` at once, though its threads may wait for a drive. `evict` and `drop` are answered with Evicted; bytes that are
being read, or queued to be, are never dropped.

Reads are ordinary buffered reads: ComfyUI's own later come from the page cache, and without us from the disk. Where the system has to drop
other pages for them, the pages read are used once more at once: else they would be dropped before the models of workflows long over,
which were read more often.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future

from ..core.component import Component, Tier
from ..core.events import Evicted, TransferDone, TransferMoved, TransferStopped
from ..core.instructions import Cancel, Evict, Prefetch
from . import _system, memory
from ._backoff import LOOK_S, Backoff
from ._chunks import Chunk, cut, overlap
from ._dropper import Drop, Dropper
from ._lane import Lane, Part, Transfer
from .drive import is_rotational, remembered_drive
from .machine import not_kept

log = logging.getLogger("residency")

MIB, GIB = 1024**2, 1024**3

THREADS_PER_DRIVE = _system.current.threads
# A chunk is read in one call. With read_ahead_kb 128, Linux's default, 4 threads read 8 MiB at a time 1.37 GB/s, 1 MiB at a time 0.79
# (the kernel sizes its requests by the call then); with 8192 it was 1.58 and 1.78. While another thread kept the interpreter busy, as
# nodes do, 4 threads of this mover read 8 MiB at a time 0.6 GB/s, 32 MiB 1.4, 64 MiB 1.7, 128 MiB 1.8 (2 cores, virtual disk, 6 GiB).
# Smaller transfers are cut finer, so that every thread has its part.
CHUNK_BYTES, LEAST_CHUNK_BYTES = 64 * MIB, 8 * MIB
HEADROOM_BYTES = 1 * GIB
SLOW_PERCENT = 10.0  # tasks waited for memory in one of the last ten seconds
PAUSE_S = 0.1


class ReadAhead:
    """Enacts Prefetch, Cancel and Evict on the host tier. Threads exist only while there is work.

    `post` is called on this mover's threads, or on that of whoever asks where it has none, without its lock, once for each instruction that
    asks for an answer. `clock` gives seconds, `available` bytes, `pressure` percent; `crowded`: see memory.is_crowded. All methods are
    thread-safe; none raises for the state of files. No method but `wait` and `close` waits for a drive, `prefetch` of a file that nobody
    has asked about before excepted.
    """

    def __init__(
        self,
        post: Callable[[TransferDone | TransferStopped | Evicted], object],
        clock: Callable[[], float] = time.perf_counter,
        *,
        available: Callable[[], int] = memory.available_bytes,
        crowded: Callable[[], bool] = memory.is_crowded,
        pressure: Callable[[], float] = memory.pressure,
        threads_per_drive: int = THREADS_PER_DRIVE,
        chunk_bytes: int = CHUNK_BYTES,
        headroom_bytes: int = HEADROOM_BYTES,
        slow_percent: float = SLOW_PERCENT,
        pause_s: float = PAUSE_S,
        look_s: float = LOOK_S,
    ) -> None:
        self._post = post
        self._clock = clock
        self._crowded = crowded
        self._backoff = Backoff(available, headroom_bytes, pressure, slow_percent, pause_s, look_s)
        self._threads_per_drive = threads_per_drive
        self._chunk_bytes = chunk_bytes
        self._condition = threading.Condition()
        self._lanes: dict[str, Lane] = {}
        self._live: list[Transfer] = []
        self._latest: dict[str, Transfer] = {}
        self._dropper = Dropper(self._condition, self._finish_drop)
        self._closed = False
        self.failures = 0  # answers that the host could not take; each was logged

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        """Queue a read of the component's bytes in [start_bytes, size_bytes). The future is done when the answer has been posted.

        Raises ValueError for another tier than the host.
        """
        _check_tier(instruction)
        component = instruction.component
        chunk_bytes = self._chunk_bytes
        while chunk_bytes > LEAST_CHUNK_BYTES and chunk_bytes * self._threads_per_drive > instruction.size_bytes - instruction.start_bytes:
            chunk_bytes //= 2
        chunks = list(cut(component, instruction.size_bytes, chunk_bytes, instruction.start_bytes))
        drives = {path: remembered_drive(path) for path in {chunk.path: None for chunk in chunks}}
        why_not = next(filter(None, map(not_kept, drives)), None)
        by_drive: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            by_drive.setdefault(drives[chunk.path], []).append(chunk)
        with self._condition:
            blockers = tuple(drop.future for drop in self._dropper.pending if _same_bytes(drop.component, component))
            is_first = component.key not in self._latest
            transfer = Transfer(component, instruction.size_bytes, blockers, is_first=is_first, crowded=self._crowded)
            closed = self._closed
            if closed:
                transfer.stop("reading ahead has been closed")
            elif why_not is not None:
                transfer.stop(why_not)
            elif instruction.size_bytes > instruction.start_bytes and not chunks:
                transfer.stop(f"no file is known for {component.name}")
            self._live.append(transfer)
            self._latest[component.key] = transfer
            transfer.asked_bytes = sum(chunk.size_bytes for chunk in chunks)
            transfer.ending = closed  # a lane's threads may all wait for their drive
            transfer.parts = [Part(transfer, part) for part in by_drive.values()] or [Part(transfer, [])]
            transfer.open_parts = len(transfer.parts)
            lanes = [] if closed else [self._lane(drive) for drive in by_drive or ("none",)]
            for lane, part in zip(lanes, transfer.parts, strict=not closed):
                lane.add(part)
            self._condition.notify_all()
        if closed:
            self._finish(transfer)
        for lane in lanes:
            lane.work_off_without_threads()
        return transfer.future

    def cancel(self, instruction: Cancel) -> None:
        """Stop the component's transfer, queued or running; the answer is TransferStopped, or TransferDone when it had just ended."""
        _check_tier(instruction)
        self.stop(instruction.component.key, instruction.reason)

    def stop(self, key: str, reason: str) -> None:
        """Stop every unanswered Prefetch of the component."""
        with self._condition:
            self._stop([transfer for transfer in self._live if transfer.component.key == key], reason)

    def evict(self, instruction: Evict) -> None:
        """Give the component's pages in [keep_bytes, upto_bytes) back; Evicted says how many bytes that freed."""
        _check_tier(instruction)
        self.drop(instruction.component, instruction.upto_bytes, instruction.reason, keep_bytes=instruction.keep_bytes)

    def drop(self, component: Component, upto_bytes: int | None = None, reason: str = "asked for", *, keep_bytes: int = 0) -> Future[None]:
        """Give the pages of the component's bytes in [keep_bytes, upto_bytes) back (None: to its end); answered with Evicted.

        Refused, with 0 bytes freed and a reason that begins with "refused", while an unstopped Prefetch has yet to read any of
        them. So a host can drop behind the consumer of a component whose rest is still being read.
        """
        upto = component.size_bytes if upto_bytes is None else upto_bytes
        drop = Drop(component, upto, reason, keep_bytes)
        with self._condition:
            others = [transfer for transfer in self._live if _same_bytes(transfer.component, component)]
            drop.ending = tuple(transfer for transfer in others if transfer.ending or transfer.stop_reason is not None)
            for transfer in others:
                behind = transfer.component.key == component.key and upto <= transfer.finished_bytes()
                if transfer not in drop.ending and not behind:
                    drop.refusal = f"{transfer.component.name} is being read ahead"
            closed = drop.answered = self._closed
            if not closed:
                self._dropper.add(drop)
        if closed:
            self._refuse_drop(drop)
        self._dropper.work_off_without_threads()
        return drop.future

    def wait(self, key: str, timeout_s: float | None = None) -> TransferDone | TransferStopped | None:
        """Block until the component's newest Prefetch is answered. None when there was none, or the time is up."""
        with self._condition:
            transfer = self._latest.get(key)
        if transfer is None:
            return None
        try:
            transfer.future.result(timeout_s)
        except futures.TimeoutError:
            return None
        return transfer.answer

    def progress(self, key: str) -> int:
        """Bytes of the component's newest Prefetch that are present so far, read or found cached; 0 for an unknown one."""
        with self._condition:
            transfer = self._latest.get(key)
            return 0 if transfer is None else transfer.present_bytes

    def so_far(self, key: str) -> TransferMoved | None:
        """The progress of the component's unanswered Prefetch, the first of several; None where there is none, or it has not begun
        or is being answered."""
        now_s = self._clock()
        with self._condition:
            transfer = next((one for one in self._live if one.component.key == key), None)
            if transfer is None or transfer.begun_s is None or transfer.ending:
                return None
            moved = transfer.moved_bytes, transfer.present_bytes, now_s - transfer.begun_s, transfer.read_bytes
            return TransferMoved(now_s, key, Tier.HOST, *moved)

    def rates(self) -> dict[str, float]:
        """Bytes per second by drive, averaged over bytes really read; drives that have read nothing are missing.

        Where the page cache cannot be asked (Windows, files of another user) only bytes that samples have shown to be cold count.
        """
        with self._condition:
            measured = {drive: lane.rate.bytes_per_s() for drive, lane in self._lanes.items()}
        return {drive: rate for drive, rate in measured.items() if rate is not None}

    def set_threads(self, threads_per_drive: int) -> None:
        """From now on so many threads read from each drive that does not seek; one that reads a chunk ends with it."""
        with self._condition:
            self._threads_per_drive = threads_per_drive
            for drive, lane in self._lanes.items():
                lane.max_threads = 1 if is_rotational(drive) else threads_per_drive
            self._condition.notify_all()

    def close(self, *, wait: bool = True) -> None:
        """Stop every transfer, let announced drops end, join every thread. A later Prefetch is answered with TransferStopped.

        Without `wait` no drive is waited for, however long it hangs: unanswered instructions are answered here and now, and the threads end
        with the call that they are in. The caller must not hold a lock that `post` takes.
        """
        with self._condition:
            self._closed = True
            self._stop(self._live, "reading ahead is being closed")
            threads = [thread for lane in self._lanes.values() for thread in lane.threads] + self._dropper.threads
            left = [] if wait else [transfer for transfer in self._live if not transfer.ending]
            for transfer in left:
                transfer.ending = True
            drops = [] if wait else self._dropper.give_up()
        for transfer in left:
            self._finish(transfer)
        for drop in drops:
            self._refuse_drop(drop)
        for thread in threads if wait else ():
            if thread is not threading.current_thread():
                thread.join()

    def _lane(self, drive: str) -> Lane:
        if drive not in self._lanes:
            threads = 1 if is_rotational(drive) else self._threads_per_drive
            self._lanes[drive] = Lane(drive, threads, self._condition, self._clock, self._backoff, self._finish)
        return self._lanes[drive]

    def _stop(self, transfers: list[Transfer], reason: str) -> None:
        for transfer in transfers:
            transfer.stop(reason)
        self._condition.notify_all()

    def _finish(self, transfer: Transfer) -> None:
        now_s = self._clock()
        duration_s = 0.0 if transfer.begun_s is None else now_s - transfer.begun_s
        key, moved_bytes, present_bytes = transfer.component.key, transfer.moved_bytes, transfer.present_bytes
        # told to stop when all was there already: a node that has read a small component itself ends as soon as we do
        if transfer.stop_reason is None or 0 < transfer.asked_bytes == present_bytes:
            transfer.answer = TransferDone(now_s, key, Tier.HOST, moved_bytes, present_bytes, duration_s, transfer.read_bytes)
        else:
            told = (moved_bytes, present_bytes, duration_s, transfer.stop_reason, transfer.read_bytes)
            transfer.answer = TransferStopped(now_s, key, Tier.HOST, *told)
            if transfer.failed:
                log.warning("residency: %s is left to ComfyUI, reading it ahead failed: %s", transfer.component.name, transfer.stop_reason)
        self._tell(transfer.answer)
        with self._condition:
            self._live.remove(transfer)
            transfer.answered = True
            transfer.parts = []
            self._condition.notify_all()
        transfer.future.set_result(None)

    def _refuse_drop(self, drop: Drop) -> None:
        self._finish_drop(drop, 0, "refused: reading ahead has been closed")
        drop.future.set_result(None)

    def _finish_drop(self, drop: Drop, freed_bytes: int, reason: str) -> None:
        self._tell(Evicted(self._clock(), drop.component.key, Tier.HOST, freed_bytes, reason))

    def _tell(self, event: TransferDone | TransferStopped | Evicted) -> None:
        try:
            self._post(event)
        except BaseException:  # the host's fault; a thread that died of it would leave every later Prefetch unanswered
            log.exception("the host failed to take %r", event)
            self.failures += 1


def _same_bytes(one: Component, other: Component) -> bool:
    return one.key == other.key or overlap(one, other)


def _check_tier(instruction: Prefetch | Cancel | Evict) -> None:
    if instruction.tier is not Tier.HOST:
        raise ValueError(f"ReadAhead moves to the host tier only, not to {instruction.tier.value}; ask that tier's mover")
