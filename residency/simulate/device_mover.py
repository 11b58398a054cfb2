"""The simulated device mover: copies to the device beside the consumer, one after the other, while the link is free.

Like the real one it gives memory back at once, keeps what a cancelled copy has brought, and stops where the host holds no more. Weights of
the node that runs cross as the consumer fetches them, and are answered then. An Exchange is carried out when the consumer loads the
component: both directions of the link at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..core.component import Tier
from ..core.events import Evicted, TransferDone, TransferMoved, TransferStopped
from ..core.instructions import Cancel, Evict, Exchange, Prefetch
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


@dataclass
class _Going:
    """An exchange whose victims leave as the consumer comes: bytes of each that are still to be written back, best victim first.

    Another component of the same node may have had some of them leave already."""

    key: str
    leaving: deque[tuple[str, int]]

    @property
    def size_bytes(self) -> int:
        return sum(own_bytes for _, own_bytes in self.leaving)

    def leave(self, size_bytes: int, held: Mapping[str, int], one: Callable[..., None]) -> int:
        """Let so many of the bytes `held` on the device go; returns how many went."""
        left_bytes = max(0, size_bytes)
        while left_bytes > 0 and self.leaving:
            key, own_bytes = self.leaving.popleft()
            own_bytes = min(own_bytes, held.get(key, 0))
            gone_bytes = min(own_bytes, left_bytes)
            one(key, gone_bytes, keep=True)
            left_bytes -= gone_bytes
            if own_bytes > gone_bytes:
                self.leaving.appendleft((key, own_bytes - gone_bytes))
        return max(0, size_bytes) - left_bytes


class Link:
    """Implements the runtime's Mover for the device tier. `can_prefetch` false: it refuses, as hosts without such a mover do."""

    def __init__(self, machine: Machine, host: Host, device: Device, clock: Callable[[], float]) -> None:
        self.can_prefetch = False
        self.busy = False  # the consumer's own copies come first
        self.moved_bytes = 0
        self.tell: Callable[[TransferDone | TransferStopped | Evicted], object] = lambda event: None
        self._machine, self._host, self._device, self._clock = machine, host, device, clock
        self._queue: deque[Copy] = deque()
        self._own: dict[str, Copy] = {}  # of the node that runs
        self._placed: dict[str, Exchange] = {}  # of the node that runs
        self._unanswered: set[str] = set()  # of those
        self._going: dict[str, _Going] = {}
        self.lasting: dict[str, int] = {}  # bytes of a component that both tiers had kept between its last two loads

    # --- the runtime's Mover ---

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        key = instruction.component.key
        held_bytes = self._device.held.get(key, 0)
        known = next((copy for copy in self._queue if copy.key == key), None)
        if known is not None:
            known.instruction = instruction
            if not instruction.ahead:
                self._queue.remove(known)
                self._own[key] = known
            return known.future
        copy = Copy(instruction, self._clock(), held_bytes, float(held_bytes))
        if not instruction.ahead:
            self._own[key] = copy
            return copy.future
        if self.can_prefetch:
            self._queue.append(copy)
        else:
            self._answer(copy, "this host does not prefetch to the device")
        return copy.future

    def exchange(self, instruction: Exchange) -> None:
        self._placed[instruction.component.key] = instruction
        self._unanswered.add(instruction.component.key)

    def cancel(self, instruction: Cancel) -> None:
        key = instruction.component.key
        own = self._own.pop(key, None)
        if own is not None:
            self._answer(own, instruction.reason)
        if key in self._unanswered:
            self._unanswered.discard(key)
            del self._placed[key]
            held_bytes = self._device.held.get(key, 0)
            self.tell(TransferStopped(self._clock(), key, Tier.DEVICE, 0, held_bytes, 0.0, instruction.reason))
        for copy in [copy for copy in self._queue if copy.key == key]:
            self._queue.remove(copy)
            self._answer(copy, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        key = instruction.component.key
        self._host.cut_image(key, self._host.images.get(key, 0))  # behind what leaves without one
        freed_bytes = self._device.drop(key, instruction.keep_bytes)
        self.tell(Evicted(self._clock(), key, Tier.DEVICE, freed_bytes, instruction.reason))

    def progress(self, key: str) -> int:
        return next((int(copy.front) for copy in self._queue if copy.key == key), 0)

    def so_far(self, key: str) -> TransferMoved | None:
        """Simulated traces are read when everything has been answered."""
        return None

    def close(self, *, wait: bool = True) -> None:
        pass

    # --- the consumer ---

    def expect(self) -> None:
        """A node is about to start: the placement for the one before no longer holds."""
        self._placed = {key: one for key, one in self._placed.items() if key in self._unanswered}
        self._going.clear()

    def placed(self, key: str) -> Exchange | None:
        """The exchange that holds for the component while this node runs."""
        return self._placed.get(key)

    def goes_on(self, key: str) -> bool:
        """Whether the consumer's coming makes room for the component."""
        return key in self._going

    def load(self, key: str, size_bytes: int, working_set_bytes: int, wait: Callable[[float], object]) -> int:
        """The consumer loads the component; `wait(seconds)` passes the time that its exchange takes. Returns the bytes that need room: all
        of it, or those that the exchange has brought where the rest is left out."""
        placed = self._placed.get(key)
        if placed is None:
            return size_bytes
        held, images, host, device = self._device.held, self._host.images, self._host, self._device
        spare_bytes = self._spare_bytes()
        known_bytes = held.get(key, 0) + images.get(key, 0)
        kept_bytes = known_bytes if known_bytes or key in self.lasting else size_bytes  # nothing is lost of what has not had its turn
        lost_bytes = size_bytes - kept_bytes
        self.lasting[key] = kept_bytes

        def short_bytes(wanted_bytes: int) -> int:
            return wanted_bytes - (device.limit_bytes - working_set_bytes - sum(held.values()))

        wanted_bytes = size_bytes - held.get(key, 0)
        nowhere_bytes = short_bytes(wanted_bytes) - images.get(key, 0) - max(0, spare_bytes)
        left_out = placed.left_out and lost_bytes > 0 and nowhere_bytes > 0
        if left_out:
            wanted_bytes = images.get(key, 0)
            nowhere_bytes = short_bytes(wanted_bytes) - images.get(key, 0) - max(0, spare_bytes)
        short, begun_s = short_bytes(wanted_bytes), self._clock()
        going = self._going[key] = _Going(key, deque())
        lost_bytes = max(0, nowhere_bytes)
        for victim in placed.leaving:
            held_bytes = held.get(victim.key, 0)
            gone_bytes = max(0, min(short, held_bytes))
            short -= gone_bytes
            outside_bytes = min(gone_bytes, max(0, held_bytes - victim.size_bytes + placed.outside.get(victim.key, 0)))
            lost_bytes = max(0, lost_bytes - outside_bytes)
            without_bytes = min(lost_bytes, gone_bytes - outside_bytes)  # of what is needed last the end leaves without an image
            lost_bytes -= without_bytes
            self._leave(victim.key, outside_bytes + without_bytes, keep=False)
            going.leaving.append((victim.key, gone_bytes - outside_bytes - without_bytes))
        # both at once, page by page: what comes gives its place in host memory to what leaves
        images_bytes = images.get(key, 0)
        leaves_bytes = min(max(0, short_bytes(images_bytes)), going.size_bytes)
        brought_bytes = min(images_bytes, max(0, leaves_bytes - short_bytes(0)))
        host.cut_image(key, brought_bytes)
        written_bytes = going.leave(leaves_bytes, held, self._leave)
        device.fill(key, held.get(key, 0) + brought_bytes)
        self.moved_bytes += brought_bytes
        wait(self._exchange_s(brought_bytes, written_bytes))
        if key in self._unanswered or brought_bytes:
            self._unanswered.discard(key)
            took_s = self._clock() - begun_s
            self.tell(TransferDone(self._clock(), key, Tier.DEVICE, brought_bytes, held.get(key, 0), took_s))
        return held.get(key, 0) if left_out else size_bytes

    def go_on(self, key: str, upto: int, working_set_bytes: int, wait: Callable[[float], object]) -> None:
        """The consumer is about to fetch the component up to there: that finds room, in exchange."""
        device, going = self._device, self._going.get(key)
        if going is None:
            return
        room_bytes = device.limit_bytes - working_set_bytes - sum(device.held.values())
        written_bytes = going.leave(upto - device.held.get(key, 0) - room_bytes, device.held, self._leave)
        room_bytes = device.limit_bytes - working_set_bytes - sum(device.held.values())
        device.fill(key, min(upto, device.held.get(key, 0) + max(0, room_bytes)))
        if written_bytes:
            wait(self._exchange_s(0, written_bytes))

    def _leave(self, key: str, size_bytes: int, *, keep: bool) -> None:
        """The end of a victim leaves the device."""
        if size_bytes <= 0:
            return
        kept_bytes = max(0, min(size_bytes, self._spare_bytes())) if keep else 0
        self._host.cut_image(key, size_bytes - kept_bytes)
        self._device.drop(key, self._device.held[key] - size_bytes)
        self._host.write_back(key, kept_bytes)
        self.tell(Evicted(self._clock(), key, Tier.DEVICE, size_bytes, "host memory is too short for both"))

    def _spare_bytes(self) -> int:
        return self._host.available_bytes - self._machine.idle_floor_bytes

    def _exchange_s(self, in_bytes: int, out_bytes: int) -> float:
        shorter_s, longer_s = sorted((in_bytes / self._machine.pinned_bytes_per_s, out_bytes / self._machine.pinned_back_bytes_per_s))
        return shorter_s / self._machine.both_ways_share + longer_s - shorter_s

    def fetched(self, key: str) -> None:
        """The consumer has gone through the component once."""
        own = self._own.pop(key, None)
        if own is not None:
            own.front = float(max(own.front, self._device.held.get(key, 0)))
            self._answer(own, None)

    # --- the world's clock ---

    def settle(self) -> None:
        """Answer ended copies."""
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
        """The byte at which the copy's rate changes: the end of the pinned bytes, or of the copy."""
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
