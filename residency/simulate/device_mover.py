"""The simulated device mover: copies to the device beside the consumer, one after the other, while the link is free.

Like the real one it gives memory back at once, keeps what a cancelled copy has brought, and stops where the host holds no more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..core.component import Tier
from ..core.events import Cancel, Evict, Evicted, Prefetch, TransferDone, TransferMoved, TransferStopped
from .machine import Machine
from .tiers import Device, Host


@dataclass
class Copy:
    """One Prefetch: `front` is the offset up to which bytes are on the device."""

    instruction: Prefetch
    begun_s: float
    start: int
    front: float
    future: Future[None] = field(default_factory=Future)

    @property
    def key(self) -> str:
        return self.instruction.component.key


class Link:
    """Implements the runtime's Mover for the device tier. `can_prefetch` false: it refuses, as hosts without such a mover do."""

    def __init__(self, machine: Machine, host: Host, device: Device, clock: Callable[[], float]) -> None:
        self.can_prefetch = False
        self.busy = False  # the consumer's own copies come first
        self.moved_bytes = 0
        self.tell: Callable[[TransferDone | TransferStopped | Evicted], object] = lambda event: None
        self._machine, self._host, self._device, self._clock = machine, host, device, clock
        self._queue: deque[Copy] = deque()

    # --- the runtime's Mover ---

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        key = instruction.component.key
        held_bytes = self._device.held.get(key, 0)
        known = next((copy for copy in self._queue if copy.key == key), None)
        if known is not None:
            known.instruction = instruction
            return known.future
        copy = Copy(instruction, self._clock(), held_bytes, float(held_bytes))
        if self.can_prefetch:
            self._queue.append(copy)
        else:
            self._answer(copy, "this host does not prefetch to the device")
        return copy.future

    def cancel(self, instruction: Cancel) -> None:
        key = instruction.component.key
        for copy in [copy for copy in self._queue if copy.key == key]:
            self._queue.remove(copy)
            self._answer(copy, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        key = instruction.component.key
        freed_bytes = self._device.drop(key, instruction.keep_bytes)
        self.tell(Evicted(self._clock(), key, Tier.DEVICE, freed_bytes, instruction.reason))

    def progress(self, key: str) -> int:
        return next((int(copy.front) for copy in self._queue if copy.key == key), 0)

    def so_far(self, key: str) -> TransferMoved | None:
        """Simulated traces are read when everything has been answered."""
        return None

    def close(self, *, wait: bool = True) -> None:
        pass

    # --- the world's clock ---

    def settle(self) -> None:
        """Answer what has ended."""
        while self._queue:
            copy = self._queue[0]
            if copy.front >= copy.instruction.size_bytes - 1e-6:
                reason = None
            elif self._rate(copy) == 0:
                reason = "the host holds no more of it"
            else:
                return
            self._queue.popleft()
            self._answer(copy, reason)

    def next_s(self) -> float:
        """Seconds until the first copy ends or changes its pace; infinite when none is under way."""
        if not self._queue or self.busy:
            return math.inf
        copy = self._queue[0]
        rate = self._rate(copy)
        left_bytes = self._pace_ends(copy) - copy.front
        return left_bytes / rate if rate > 0 and left_bytes > 0 else math.inf  # what has ended waits to be answered

    def moved(self, seconds: float) -> None:
        """So much time has passed."""
        if not self._queue or self.busy:
            return
        copy = self._queue[0]
        end = self._pace_ends(copy)
        copy.front = min(copy.front + seconds * self._rate(copy), end)
        if end - copy.front < 1:
            copy.front = end
        self._device.fill(copy.key, int(copy.front))

    def _pace_ends(self, copy: Copy) -> float:
        """Where what is pinned ends and what is cached begins, or the copy itself."""
        pinned_bytes = self._host.pins.get(copy.key, 0)
        size_bytes = copy.instruction.size_bytes
        return float(min(size_bytes, pinned_bytes) if copy.front < pinned_bytes else size_bytes)

    def _rate(self, copy: Copy) -> float:
        if copy.front < self._host.pins.get(copy.key, 0):
            return self._machine.pinned_bytes_per_s
        present, _ = self._host.cached(copy.key).run_at(int(copy.front), copy.instruction.size_bytes)
        return self._machine.cached_bytes_per_s if present else 0.0

    def _answer(self, copy: Copy, reason: str | None) -> None:
        now_s, present_bytes = self._clock(), self._device.held.get(copy.key, 0)
        moved_bytes = int(copy.front) - copy.start
        self.moved_bytes += moved_bytes
        fields = (now_s, copy.key, Tier.DEVICE, moved_bytes, present_bytes, now_s - copy.begun_s)
        self.tell(TransferDone(*fields) if reason is None else TransferStopped(*fields, reason))
        copy.future.set_result(None)
