"""What a prompt will take: when each visit starts, how long it waits for weights, and the most that each tier will hold.

The manager itself is asked, on a clock that jumps: what is forecast is what would be decided. One drive reads everything, in the order of
the announcements; a node goes on when all it reads is there and what the device lacks has crossed the link, whichever takes longer.
Where a rate is not known no time is counted, and the component is named in `unknown`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from .core.component import Component, Mode, Policy, Tier
from .core.events import (
    Cancel,
    Event,
    Evict,
    Evicted,
    NodeFinished,
    NodeStarted,
    Observed,
    Prefetch,
    PromptStarted,
    RatesMeasured,
    TransferDone,
    TransferStopped,
)
from .core.manager import Manager
from .core.timeline import Timeline, UseKind


@dataclass(frozen=True, slots=True)
class VisitForecast:
    """Seconds: the start counts from the prompt's; the visit lasts stall and compute."""

    start_s: float
    compute_s: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """`unknown`: components whose reading or crossing could not be timed, in order of first use."""

    visits: tuple[VisitForecast, ...]
    total_s: float
    stall_s: float
    read_bytes: int
    peak_host_bytes: int
    peak_device_bytes: int
    unknown: tuple[str, ...]


def forecast(
    timeline: Timeline,
    components: Mapping[str, Component],
    rates: RatesMeasured,
    host_limit_bytes: int,
    device_limit_bytes: int | None = None,
    *,
    held: Mapping[str, int] | None = None,
    mode: Mode = Mode.BALANCED,
    policies: Mapping[str, Policy] | None = None,
) -> Forecast:
    """Forecast a prompt. `held`: bytes by component that are in the host tier already; mode OFF reads on demand, least recently used
    leaves first. `device_limit_bytes` None: the device shares the host's memory, nothing crosses a link."""
    course = _Course(components, rates, host_limit_bytes, device_limit_bytes, dict(held or {}))
    course.give(PromptStarted(0.0, "forecast", timeline, components, mode, policies or {}))
    visits = tuple(course.visit(timeline, position) for position in range(len(timeline.visits)))
    return Forecast(
        visits,
        course.now_s,
        sum(visit.stall_s for visit in visits),
        course.read_bytes,
        course.peak_host_bytes,
        course.peak_device_bytes,
        tuple(course.unknown),
    )


class _Course:
    """The prompt on its way: a manager, one drive, one device."""

    def __init__(
        self,
        components: Mapping[str, Component],
        rates: RatesMeasured,
        host_limit_bytes: int,
        device_limit_bytes: int | None,
        held: dict[str, int],
    ) -> None:
        self.now_s = 0.0
        self.read_bytes = self.peak_host_bytes = self.peak_device_bytes = 0
        self.unknown: dict[str, None] = {}
        self._components, self._rates = components, rates
        self._host_limit_bytes, self._device_limit_bytes = host_limit_bytes, device_limit_bytes
        self._present = held  # least recently used first
        self._device: dict[str, int] = {}  # the same
        self._queue: deque[Prefetch] = deque()
        self._lands_s = 0.0
        self._manager = Manager(host_limit_bytes, device_limit_bytes)
        self._manager.handle(rates)
        self._manager.handle(PromptStarted(0.0, "before", Timeline((), ()), components, Mode.BALANCED))
        self._manager.handle(Observed(0.0, Tier.HOST, dict(held)))

    def give(self, event: Event) -> None:
        """Hand the event over; what leaves leaves at once, what is announced is read in order."""
        todo = deque([event])
        while todo:
            for instruction in self._manager.handle(todo.popleft()):
                key = instruction.component.key
                if instruction.tier is not Tier.HOST:
                    continue
                if isinstance(instruction, Prefetch):
                    self._queue.append(instruction)
                    if len(self._queue) == 1:
                        self._begin()
                elif isinstance(instruction, Evict):
                    freed_bytes = max(0, self._present.get(key, 0) - instruction.keep_bytes)
                    self._hold(key, self._present.get(key, 0) - freed_bytes)
                    todo.append(Evicted(self.now_s, key, Tier.HOST, freed_bytes, instruction.reason))
                elif isinstance(instruction, Cancel):
                    first = self._queue[0] if self._queue else None
                    self._queue = deque(one for one in self._queue if one.component.key != key)
                    if self._queue and self._queue[0] is not first:
                        self._begin()
                    todo.append(TransferStopped(self.now_s, key, Tier.HOST, 0, self._present.get(key, 0), 0.0, instruction.reason))

    def visit(self, timeline: Timeline, position: int) -> VisitForecast:
        """One node from its start to its end."""
        start_s = self.now_s
        compute_s = timeline.visits[position].compute_s
        uses = timeline.at(position)
        self.give(NodeStarted(start_s, position))
        for use in uses:
            if use.reads:
                self._wait_for(use.component)
                self._read_rest(use.component)
        crossing_s = sum(
            self._cross(use.component, timeline.visits[position].working_set_bytes) for use in uses if use.kind is UseKind.COMPUTE
        )
        self._go_on(max(self.now_s, start_s + crossing_s))
        stall_s = self.now_s - start_s
        self._go_on(self.now_s + compute_s)
        self.give(NodeFinished(self.now_s, position))
        return VisitForecast(start_s, compute_s, stall_s)

    def _wait_for(self, key: str) -> None:
        while any(one.component.key == key for one in self._queue):
            self._land()

    def _read_rest(self, key: str) -> None:
        """The node reads what nobody has read for it; the drive does nothing else meanwhile."""
        missing_bytes = self._components[key].size_bytes - self._present.pop(key, 0)
        read_s = self._seconds(key, missing_bytes, self._rates.read.get(key))
        self.read_bytes += missing_bytes
        self._lands_s += read_s
        self.now_s += read_s
        self._hold(key, self._components[key].size_bytes)

    def _cross(self, key: str, working_set_bytes: int) -> float:
        """Seconds in which what the device lacks of the component crosses the link; the least recently used makes room."""
        if self._device_limit_bytes is None:
            return 0.0
        size_bytes, held_bytes = self._components[key].size_bytes, self._device.pop(key, 0)
        room = self._device_limit_bytes - working_set_bytes
        for other in list(self._device):
            over = sum(self._device.values()) + size_bytes - room
            if over <= 0:
                break
            self._device[other] -= min(over, self._device[other])
        self._device[key] = max(0, min(size_bytes, room - sum(self._device.values())))
        self.peak_device_bytes = max(self.peak_device_bytes, sum(self._device.values()) + working_set_bytes)
        return self._seconds(key, size_bytes - min(held_bytes, self._device[key]), self._rates.onload)

    def _seconds(self, key: str, size_bytes: int, rate: float | None) -> float:
        if size_bytes <= 0:
            return 0.0
        if rate is None or rate <= 0:
            self.unknown[key] = None
            return 0.0
        return size_bytes / rate

    def _go_on(self, until_s: float) -> None:
        while self._queue and self._lands_s <= until_s:
            self._land()
        self.now_s = max(self.now_s, until_s)

    def _begin(self) -> None:
        first = self._queue[0]
        key = first.component.key
        self._lands_s = self.now_s + self._seconds(key, first.size_bytes - self._present.get(key, 0), self._rates.read.get(key))

    def _land(self) -> None:
        self.now_s = max(self.now_s, self._lands_s)
        done = self._queue.popleft()
        key = done.component.key
        moved_bytes = max(0, done.size_bytes - self._present.pop(key, 0))
        self.read_bytes += moved_bytes
        self._hold(key, done.size_bytes)
        if self._queue:
            self._begin()
        self.give(TransferDone(self.now_s, key, Tier.HOST, moved_bytes, done.size_bytes, 0.0))

    def _hold(self, key: str, held_bytes: int) -> None:
        """The host holds that much now; the page cache keeps within its limit by itself."""
        self._present.pop(key, None)
        if held_bytes > 0:
            self._present[key] = held_bytes
        over = sum(self._present.values()) - self._host_limit_bytes
        for other in list(self._present):
            if over <= 0:
                break
            gone = min(over, self._present[other])
            self._present[other] -= gone
            over -= gone
        self.peak_host_bytes = max(self.peak_host_bytes, sum(self._present.values()))
