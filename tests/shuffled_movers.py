"""Movers of a world in which nothing happens by itself: each answer is late, early, partial or a refusal, as the world draws it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from residency.core.component import Component, Tier
from residency.core.events import Event, Evicted, TransferDone, TransferMoved, TransferStopped
from residency.core.instructions import Cancel, Evict, Exchange, Prefetch


def mask(start: int, end: int) -> int:
    """Bytes [start, end) as bits."""
    return (1 << end) - (1 << start) if end > start else 0


@dataclass(slots=True)
class Bytes:
    """The true state of one component's bytes. `cached`: bit n is byte n. `loaded`: from its start, held by the process for itself."""

    component: Component
    cached: int = 0
    loaded: int = 0
    pinned: int = 0
    device: int = 0
    unreadable: str = ""  # why its files cannot be read any more

    @property
    def held(self) -> int:
        return (self.cached & ~mask(0, self.loaded)).bit_count()

    @property
    def surplus(self) -> int:
        return (self.cached & mask(0, self.loaded)).bit_count()


class Place(Protocol):
    """The part of the world that a mover needs."""

    draw: Random
    time_s: float
    bytes: dict[str, Bytes]

    def meanwhile(self) -> None:
        """Other threads may come in here."""

    def perhaps_fails(self, what: str) -> None:
        """Raises OSError now and then."""

    def changed_untold(self, key: str) -> None:
        """From now on something is true of the component that was not told."""


@dataclass(eq=False, slots=True)
class Transfer:
    """One Prefetch until it is answered; `at` is where it reads next."""

    instruction: Prefetch
    at: int
    future: Future[None] = field(default_factory=Future)
    stop_reason: str = ""
    ending: bool = False
    moved: int = 0

    @property
    def key(self) -> str:
        return self.instruction.component.key


@dataclass(eq=False, slots=True)
class Drop:
    """An eviction until it is answered; `behind`: transfers that end first."""

    instruction: Evict
    behind: list[Transfer]

    @property
    def key(self) -> str:
        return self.instruction.component.key


class DiskMover:
    """As transfers/disk.py answers: what is queued or read is never dropped, what is stopped ends first, `close` answers at once."""

    def __init__(self, world: Place, tell: Callable[[Event], object]) -> None:
        self.world, self.tell = world, tell
        self.live: list[Transfer] = []
        self.drops: list[Drop] = []
        self.closed = False

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        self.world.meanwhile()
        self.world.perhaps_fails("prefetch")
        transfer = Transfer(instruction, instruction.start_bytes)
        self.live.append(transfer)
        if self.closed:
            self.answer(transfer, "reading ahead has been closed")
        elif self.world.draw.random() < 0.1:  # nothing of it is missing, or no thread can be started
            self.go_on(transfer, 10**9)
        return transfer.future

    def cancel(self, instruction: Cancel) -> None:
        self.world.perhaps_fails("cancel")
        for transfer in [one for one in self.live if one.key == instruction.component.key and not one.ending]:
            transfer.stop_reason = transfer.stop_reason or instruction.reason
            if self.world.draw.random() < 0.3 and not transfer.ending:
                self.answer(transfer)
        self.world.meanwhile()

    def evict(self, instruction: Evict) -> None:
        self.world.meanwhile()
        self.world.perhaps_fails("evict")
        key = instruction.component.key
        mine = [one for one in self.live if one.key == key]
        drop = Drop(instruction, [one for one in mine if one.stop_reason or one.ending])
        self.drops.append(drop)
        if self.closed:
            self.dropped(drop, "refused: reading ahead has been closed")
        elif len(drop.behind) < len(mine):
            self.dropped(drop, "refused: it is being read ahead")
        elif not mine and self.world.draw.random() < 0.3:
            self.dropped(drop)

    def progress(self, key: str) -> int:
        return max((one.at - one.instruction.start_bytes for one in self.live if one.key == key), default=0)

    def so_far(self, key: str) -> TransferMoved | None:
        for one in self.live:
            if one.key == key and not one.ending and one.at > one.instruction.start_bytes:
                return TransferMoved(self.world.time_s, key, Tier.HOST, one.moved, self._present(one), 1.0, one.moved)
        return None

    def close(self, *, wait: bool = True) -> None:
        self.closed = True
        for transfer in list(self.live):
            if not transfer.ending:
                self.answer(transfer, "reading ahead is being closed")
        while self.drops:  # another thread may answer one while this one answers another
            self.dropped(self.drops[0], "refused: reading ahead has been closed")

    # --- what the world makes happen ---

    def go_on(self, transfer: Transfer, most: int) -> None:
        """Read so many bytes more, and answer at the end, where the files cannot be read, and where it was told to stop."""
        it = self.world.bytes[transfer.key]
        if transfer.stop_reason or it.unreadable:
            self.answer(transfer, it.unreadable)
            return
        end = min(transfer.instruction.size_bytes, transfer.at + most)
        found = mask(transfer.at, end) & ~it.cached
        it.cached |= found
        transfer.moved += found.bit_count()
        transfer.at = end
        if end >= transfer.instruction.size_bytes:
            self.answer(transfer)

    def answer(self, transfer: Transfer, reason: str = "") -> None:
        transfer.ending = True
        reason = transfer.stop_reason or reason
        key, present = transfer.key, self._present(transfer)
        asked = transfer.instruction.size_bytes - transfer.instruction.start_bytes
        told = (self.world.time_s, key, Tier.HOST, transfer.moved, present, 1.0)
        if transfer.at < transfer.instruction.size_bytes or self._all_of(key) != present:
            self.world.changed_untold(key)  # what lies beside what was asked for is told by nobody
        if not reason or 0 < asked == present:
            self.tell(TransferDone(*told, transfer.moved))
        else:
            self.tell(TransferStopped(*told, reason, transfer.moved))
        self.world.meanwhile()
        self.live.remove(transfer)
        transfer.future.set_result(None)

    def dropped(self, drop: Drop, refusal: str = "") -> None:
        """Answer a drop; nothing happens while it waits for a transfer."""
        if not refusal and any(one in self.live for one in drop.behind):
            return
        self.drops.remove(drop)
        it, asked = self.world.bytes[drop.key], drop.instruction
        freed = 0
        if not refusal:
            upto = it.component.size_bytes if asked.upto_bytes is None else asked.upto_bytes
            gone = it.cached & mask(asked.keep_bytes, upto)
            if self.world.draw.random() < 0.1:  # another process has it mapped
                gone &= mask(asked.keep_bytes, (asked.keep_bytes + upto) // 2)
            it.cached &= ~gone
            freed = gone.bit_count()
        if freed != asked.size_bytes:
            self.world.changed_untold(drop.key)
        self.tell(Evicted(self.world.time_s, drop.key, Tier.HOST, freed, refusal or asked.reason))

    def _present(self, transfer: Transfer) -> int:
        return (self.world.bytes[transfer.key].cached & mask(transfer.instruction.start_bytes, transfer.at)).bit_count()

    def _all_of(self, key: str) -> int:
        return self.world.bytes[key].held


@dataclass(eq=False, slots=True)
class Copy:
    """A Prefetch to the device until it is answered."""

    instruction: Prefetch
    size_bytes: int
    ahead: bool
    future: Future[None] = field(default_factory=Future)
    moved: int = 0


class DeviceMover:
    """As comfyui/device/mover.py answers: at safe points only, what the running node computes with at its load, an Exchange there too."""

    def __init__(self, world: Place, tell: Callable[[Event], object], *, exchanges: bool) -> None:
        self.world, self.tell = world, tell
        self.exchanges = exchanges
        self.pending: dict[str, Copy] = {}
        self.placed: dict[str, Exchange] = {}
        self.unanswered: set[str] = set()

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        self.world.meanwhile()
        self.world.perhaps_fails("onload")
        key = instruction.component.key
        copy = self.pending.get(key)
        if copy is not None:
            copy.size_bytes = max(copy.size_bytes, instruction.size_bytes)
            copy.ahead = copy.ahead and instruction.ahead
        else:
            copy = Copy(instruction, instruction.size_bytes, instruction.ahead)
            if not self.world.bytes[key].pinned:
                self._finish(copy, "ComfyUI has not loaded it yet")
                return copy.future
            self.pending[key] = copy
        if not copy.ahead:
            self.carry_on(key, self.world.draw.choice((0, 7, 10**9)))
        return copy.future

    def exchange(self, instruction: Exchange) -> None:
        self.world.perhaps_fails("exchange")
        assert self.exchanges, "a host that exchanges nothing was told to"
        self.placed[instruction.component.key] = instruction
        self.unanswered.add(instruction.component.key)

    def cancel(self, instruction: Cancel) -> None:
        self.world.perhaps_fails("cancel")
        copy = self.pending.pop(instruction.component.key, None)
        if copy is not None:
            self._finish(copy, instruction.reason)
        if instruction.component.key in self.unanswered:
            self._stopped(instruction.component.key, instruction.reason)

    def evict(self, instruction: Evict) -> None:
        self.world.perhaps_fails("evict")
        it = self.world.bytes[instruction.component.key]
        most = it.device if self.world.draw.random() < 0.3 else min(it.device, instruction.size_bytes)  # a legacy model leaves as a whole
        freed = 0 if self.world.draw.random() < 0.1 else most
        it.device -= freed
        self.tell(Evicted(self.world.time_s, it.component.key, Tier.DEVICE, freed, instruction.reason if freed else "it cannot leave"))

    def progress(self, key: str) -> int:
        return self.world.bytes[key].device

    def so_far(self, key: str) -> TransferMoved | None:
        return None

    def close(self, *, wait: bool = True) -> None:
        unanswered, self.pending = list(self.pending.values()), {}
        standing, self.unanswered, self.placed = sorted(self.unanswered), set(), {}
        for copy in unanswered:
            self._finish(copy, "the device mover is being closed")
        for key in standing:
            self._stopped(key, "the device mover is being closed")

    # --- what the world makes happen ---

    def carry_on(self, key: str, most: int) -> None:
        """Copy so many bytes more; answered where the end is reached, or nothing more is pinned."""
        copy, it = self.pending[key], self.world.bytes[key]
        more = max(0, min(most, min(copy.size_bytes, it.pinned) - it.device))
        it.device += more
        copy.moved += more
        if it.device >= copy.size_bytes:
            self._finish(self.pending.pop(key), "")
        elif it.device >= it.pinned:
            self._finish(self.pending.pop(key), "host memory holds no more of it")
        elif more:
            self.tell(TransferMoved(self.world.time_s, key, Tier.DEVICE, copy.moved, it.device, 1.0))

    def load(self, key: str) -> None:
        """The node that runs loads the component: what stands of it is carried out."""
        placed = self.placed.get(key)
        if placed is not None:
            gone = []
            for component in placed.leaving:
                other = self.world.bytes[component.key]
                size = self.world.draw.randint(0, other.device)
                other.device -= size
                gone.append((component.key, size))
            for other_key, size in gone:
                if size:
                    self.tell(Evicted(self.world.time_s, other_key, Tier.DEVICE, size, "written back"))
            if key in self.unanswered:
                self.unanswered.discard(key)
                it = self.world.bytes[key]
                it.device = max(it.device, it.pinned)
                self.tell(TransferDone(self.world.time_s, key, Tier.DEVICE, it.device, it.device, 1.0))
        copy = self.pending.pop(key, None)
        if copy is not None:
            self._finish(copy, "its node has started and loads the rest itself" if copy.ahead else "")

    def _finish(self, copy: Copy, reason: str) -> None:
        key = copy.instruction.component.key
        told = (self.world.time_s, key, Tier.DEVICE, copy.moved, self.world.bytes[key].device, 1.0)
        self.tell(TransferStopped(*told, reason) if reason else TransferDone(*told))
        self.world.meanwhile()
        copy.future.set_result(None)

    def _stopped(self, key: str, reason: str) -> None:
        self.unanswered.discard(key)
        self.placed.pop(key, None)
        self.tell(TransferStopped(self.world.time_s, key, Tier.DEVICE, 0, self.world.bytes[key].device, 0.0, reason))
