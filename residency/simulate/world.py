"""The virtual clock: one consumer, the read-ahead lanes beside it, and the rates that they share. Exact, no step size.

Everything moves at constant rates between two events; the world jumps from event to event: the consumer's segment ends, a lane's run
ends, a wait is over, pressure begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from .device_mover import Link
from .disk_mover import Lane, ReadAheadLanes
from .machine import Machine
from .tiers import Device, Host, Victim
from .workload import Program, Start

# What the mover reads at once of a large file (transfers/disk.py). The consumer is behind the reader by at least this: closer, it takes
# bytes as they come.
CHUNK_BYTES = 64 * 2**20
# A consumer that is quicker than the reader is never quite there: what it takes of the last bytes the reader has brought by then again.
CAUGHT_UP_BYTES = 4096
ROUNDED = 64  # images take whole pages, and a few KiB of a model lie on the device, outside of them: less than this part of it


class Held(Protocol):
    """A wait of a node for the first `size_bytes` of a transfer, which ends with its `future`; runtime.Hold is one."""

    @property
    def future(self) -> Future[None]: ...

    @property
    def size_bytes(self) -> int: ...

    def over(self) -> bool: ...

    def progress(self) -> int: ...


class World:
    """The state of one machine during one program."""

    def __init__(self, machine: Machine, program: Program, victim: Victim = Victim.LEAST_RECENT) -> None:
        self.machine = machine
        self.time_s = 0.0
        self.host = Host(machine.host_bytes, victim)
        self.device = Device(machine.device_bytes - machine.device_overhead_bytes)
        self.running: tuple[str, ...] = ()
        self.consumer_bytes = 0  # read by nodes themselves
        drive_of, self._components = program.drive_of, program.components
        self.mover = ReadAheadLanes(machine.drives, lambda key: drive_of.get(key, 0), self.host, lambda: self.running, lambda: self.time_s)
        self.link = Link(machine, self.host, self.device, lambda: self.time_s)
        self._pressure = sorted(program.pressure, key=lambda pressure: pressure.time_s)

    def begin(self, start: Start, *, exchanges: bool = False) -> None:
        """Fill the tiers with their contents before the first prompt, as far as the machine has room for it. `exchanges`: weights may have
        one copy over two tiers."""
        for key, size_bytes in start.device.items():
            self.device.fill(key, max(0, min(size_bytes, self.device.limit_bytes - sum(self.device.held.values()))))
        is_short = sum(component.size_bytes for component in self._components.values()) > self.machine.host_bytes
        for key, size_bytes in start.pinned.items():
            on_device, loaded_bytes = self.device.held.get(key, 0), start.loaded.get(key, 0)
            rounded_bytes = size_bytes // ROUNDED
            is_apart = on_device + size_bytes - max(loaded_bytes, size_bytes) <= rounded_bytes
            is_both = loaded_bytes <= max(on_device, size_bytes) + rounded_bytes
            one_copy = exchanges and (not is_both or (is_short and is_apart))
            behind_bytes = min(size_bytes, loaded_bytes - on_device) if one_copy else 0
            self.host.write_back(key, behind_bytes)
            self.host.pin(key, size_bytes - behind_bytes, 0)
        if exchanges:
            self.link.lasting.update(start.loaded)
        for key, size_bytes in start.cached.items():
            loaded_bytes = start.loaded.get(key, 0)
            self.host.cache(key, loaded_bytes, loaded_bytes + size_bytes)

    def settle(self) -> None:
        """Answer ended transfers."""
        self.mover.settle()
        self.link.settle()

    def cross(self, seconds: float) -> None:
        """The consumer copies to the device; copies ahead of their use stand back."""
        self.link.busy = True
        self.idle(seconds)
        self.link.busy = False

    def idle(self, seconds: float) -> None:
        """Nothing reads for the consumer; the lanes go on."""
        left_s = seconds
        while left_s > 0:
            self.settle()
            step_s = min(left_s, self._next_s(None))
            self._pass(step_s, None)
            left_s -= step_s
        self.settle()

    def wait(self, holds: Sequence[Held]) -> None:
        """Until every hold is over."""
        self.settle()
        while not all(hold.over() for hold in holds):
            step_s = self._next_s(None)
            for hold in holds:
                for lane in self.mover.lanes:
                    transfer = lane.reading
                    if transfer is not None and transfer.future is hold.future and not hold.over():
                        missing_bytes = max(1, hold.size_bytes - hold.progress())
                        step_s = min(step_s, transfer.latency_left_s + missing_bytes / self._reader_rate(lane, None))
            if math.isinf(step_s):
                raise RuntimeError("a node waits for a transfer that nothing is making; the hold should have been over")
            self._pass(step_s, None)
            self.settle()

    def read(self, key: str, start: int, end: int, most_bytes_per_s: float) -> int:
        """The consumer reads [start, end) from the drive itself, no faster than `most_bytes_per_s`, beside the lane's reader.

        It stops where the reader comes upon it with the same component; returns how far it got.
        """
        lane, at = self.mover.lane_of(key), float(start)
        while at < end:
            self.settle()
            if at > start and self._is_near(lane, key, int(at + 0.5)):
                break
            rate = min(most_bytes_per_s, self._consumer_rate(lane))
            step_s = min((end - at) / rate, self._next_s(lane))
            before = int(at + 0.5)
            self._pass(step_s, lane)
            at += rate * step_s
            if end - at < 1e-6:
                at = end
            self.host.cache(key, before, int(at + 0.5), self.running)
            self.consumer_bytes += int(at + 0.5) - before
        self.settle()
        return int(at + 0.5)

    def is_caught_up(self, key: str, at: int) -> bool:
        """Whether the consumer at `at` has caught up with the lane that reads its component."""
        lane = self.mover.lane_of(key)
        return lane.reading is not None and lane.reading.front >= at and self._is_near(lane, key, at)

    def _is_near(self, lane: Lane, key: str, at: int) -> bool:
        """Whether the lane reads that component right here."""
        transfer = lane.reading
        return (
            transfer is not None
            and transfer.key == key
            and int(transfer.front) - CAUGHT_UP_BYTES <= at <= transfer.front + CHUNK_BYTES
            and at < transfer.run_end
        )

    def follow(self, key: str, start: int, upto: int, most_bytes_per_s: float) -> int | None:
        """The consumer has caught up with the lane that reads its component: take the lane's current run as it comes, at most up to there.

        Returns how far it got; None when the lane is not reading there.
        """
        lane = self.mover.lane_of(key)
        self.settle()
        transfer = lane.reading
        if transfer is None or not self._is_near(lane, key, start):
            return None
        begun_s, end = self.time_s, min(upto, transfer.run_end)
        while lane.reading is transfer and transfer.front < end and transfer.run_end > start:
            reaches_s = transfer.latency_left_s + (end - transfer.front) / self._reader_rate(lane, None)
            self._pass(min(reaches_s, self._next_s(None)), None)
            if end - transfer.front < 1e-6:
                break
            self.settle()  # what another drive has brought meanwhile has ended: no time would pass any more
        self.settle()
        self.idle((end - start) / most_bytes_per_s - (self.time_s - begun_s))
        return end

    def _reader_rate(self, lane: Lane, consumer_lane: Lane | None) -> float:
        if lane is not consumer_lane:
            return lane.drive.read_bytes_per_s
        return lane.drive.read_bytes_per_s * lane.drive.contended_share - self._consumer_rate(lane)

    def _consumer_rate(self, lane: Lane) -> float:
        drive = lane.drive
        if lane.reading is None:
            return drive.single_bytes_per_s
        return min(drive.single_bytes_per_s, drive.read_bytes_per_s * drive.contended_share / 2)

    def _next_s(self, consumer_lane: Lane | None) -> float:
        """Seconds to the next thing that happens by itself; infinite when nothing will."""
        soonest = math.inf
        for lane in self.mover.lanes:
            transfer = lane.reading
            if transfer is not None:
                left_s = transfer.latency_left_s or transfer.missing_bytes / self._reader_rate(lane, consumer_lane)
                soonest = min(soonest, left_s)
        soonest = min(soonest, self.link.next_s())
        if self._pressure:
            soonest = min(soonest, max(0.0, self._pressure[0].time_s - self.time_s))
        return soonest

    def _pass(self, seconds: float, consumer_lane: Lane | None) -> None:
        rates = [(lane, self._reader_rate(lane, consumer_lane)) for lane in self.mover.lanes if lane.reading is not None]
        self.time_s += seconds
        self.link.moved(seconds)
        for lane, rate in rates:
            self.mover.moved(lane, seconds, rate)
        while self._pressure and self._pressure[0].time_s <= self.time_s:
            pressure = self._pressure.pop(0)
            self.host.resize(max(0, self.machine.host_bytes - pressure.host_bytes), self.machine.idle_floor_bytes)
