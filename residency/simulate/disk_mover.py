"""The simulated read-ahead mover: one first-in first-out lane a drive, driven by the world's clock.

It answers as transfers/disk.py does: pages that are cached are skipped, bytes queued or being read are never dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..core.component import Tier
from ..core.events import Evicted, TransferDone, TransferMoved, TransferStopped
from ..core.instructions import Cancel, Evict, Prefetch
from .machine import Drive
from .tiers import Host


@dataclass
class Transfer:
    """One Prefetch: `front` is the offset up to which bytes are present, `run_end` where the run being read ends."""

    instruction: Prefetch
    future: Future[None] = field(default_factory=Future)
    front: float = 0.0
    run_end: int = 0
    moved: float = 0.0
    started_s: float | None = None
    latency_left_s: float = 0.0

    @property
    def key(self) -> str:
        return self.instruction.component.key

    @property
    def missing_bytes(self) -> float:
        """Bytes of the run being read that are not there yet."""
        return self.run_end - self.front


@dataclass
class Lane:
    """The reads of one drive, in order."""

    drive: Drive
    queue: deque[Transfer] = field(default_factory=deque)

    @property
    def reading(self) -> Transfer | None:
        return self.queue[0] if self.queue else None


class ReadAheadLanes:
    """Implements the runtime's Mover for the host tier. `post` takes events; `clock` gives the world's seconds."""

    def __init__(
        self,
        drives: tuple[Drive, ...],
        drive_of: Callable[[str], int],
        host: Host,
        running: Callable[[], tuple[str, ...]],
        clock: Callable[[], float],
    ) -> None:
        self.lanes = [Lane(drive) for drive in drives]
        self.moved_bytes = 0
        self.tell: Callable[[TransferDone | TransferStopped | Evicted], object] = lambda event: None
        self._drive_of = drive_of
        self._host = host
        self._running = running
        self._clock = clock

    def lane_of(self, key: str) -> Lane:
        return self.lanes[self._drive_of(key)]

    def find(self, key: str) -> Transfer | None:
        """The component's transfer, queued or being read."""
        return next((transfer for transfer in self.lane_of(key).queue if transfer.key == key), None)

    # --- the runtime's Mover ---

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        transfer = Transfer(instruction, front=float(instruction.start_bytes), run_end=instruction.start_bytes)
        lane = self.lane_of(transfer.key)
        transfer.latency_left_s = lane.drive.latency_s
        lane.queue.append(transfer)
        return transfer.future

    def cancel(self, instruction: Cancel) -> None:
        key = instruction.component.key
        for transfer in [transfer for transfer in self.lane_of(key).queue if transfer.key == key]:
            self.lane_of(key).queue.remove(transfer)
            self._answer(transfer, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        key = instruction.component.key
        busy = self.find(key) is not None
        freed = 0 if busy else self._host.drop(key, instruction.keep_bytes, instruction.upto_bytes)
        reason = "refused: it is being read ahead" if busy else instruction.reason
        self.tell(Evicted(self._clock(), key, Tier.HOST, freed, reason))

    def progress(self, key: str) -> int:
        transfer = self.find(key)
        return int(transfer.front + 0.5) - transfer.instruction.start_bytes if transfer else 0

    def so_far(self, key: str) -> TransferMoved | None:
        """Simulated traces are read when everything has been answered."""
        return None

    def close(self, *, wait: bool = True) -> None:
        pass

    # --- the world's clock ---

    def settle(self) -> None:
        """Skip cached bytes and answer transfers that have ended, until each lane has bytes to read or is empty."""
        for lane in self.lanes:
            while lane.queue and self._has_ended(lane.queue[0]):
                transfer = lane.queue.popleft()
                self._answer(transfer, None)

    def moved(self, lane: Lane, seconds: float, rate_bytes_per_s: float) -> None:
        """The lane's drive worked for so long at this rate."""
        transfer = lane.queue[0]
        if transfer.latency_left_s > 0:
            transfer.latency_left_s = max(0.0, transfer.latency_left_s - seconds)
            return
        before = int(transfer.front + 0.5)
        done = min(transfer.missing_bytes, rate_bytes_per_s * seconds)
        transfer.front += done
        transfer.moved += done
        if transfer.missing_bytes < 1e-6:
            transfer.front = transfer.run_end
        self._host.cache(transfer.key, before, int(transfer.front + 0.5), self._running())

    def _has_ended(self, transfer: Transfer) -> bool:
        if transfer.started_s is None:
            transfer.started_s = self._clock()
        size_bytes = transfer.instruction.size_bytes
        while transfer.front < size_bytes:
            # asked anew each time: the consumer may have read what lies ahead
            present, end = self._host.cached(transfer.key).run_at(min(math.ceil(transfer.front), size_bytes - 1), size_bytes)
            if not present or transfer.front + 1 > end:
                transfer.run_end = end if not present else size_bytes
                return False
            transfer.front = transfer.run_end = end
        return True

    def _answer(self, transfer: Transfer, reason: str | None) -> None:
        moved_bytes = int(transfer.moved + 0.5)
        self.moved_bytes += moved_bytes
        now_s = self._clock()
        # like the real mover: what was read or found cached, not what the kernel has left of it since
        present_bytes = int(transfer.front + 0.5) - transfer.instruction.start_bytes
        duration_s = 0.0 if transfer.started_s is None else now_s - transfer.started_s
        fields = (now_s, transfer.key, Tier.HOST, moved_bytes, present_bytes, duration_s)
        if reason is None:
            self.tell(TransferDone(*fields))
        else:
            self.tell(TransferStopped(*fields, reason))
        transfer.future.set_result(None)
