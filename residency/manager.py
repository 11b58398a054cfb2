"""The deciding core: events in, instructions out. It touches no device, no file and no clock.

The manager keeps three facts: where the running prompt is on its timeline, what each tier holds, and which transfers are in
flight. After each event that could change the answer it asks the planner what should move, and turns the plan into instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import singledispatchmethod

from . import strategies, timeline
from .budget import Budget
from .component import Component, Mode, Policy, Strategy, Tier
from .device_tier import DeviceTier, View
from .events import (
    BudgetChanged,
    Cancel,
    DeviceObserved,
    Event,
    Evict,
    Evicted,
    Instruction,
    ModeChanged,
    NodeFinished,
    NodeStarted,
    Observed,
    Outcome,
    Prefetch,
    PrefetchAsked,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    ReleaseAsked,
    Replanned,
    TransferDone,
    TransferStopped,
    Wait,
)
from .plan import HostView, plan
from .timeline import UseKind


class Manager:
    """`handle(event)` returns the instructions that follow from it, in the order in which they must be given."""

    def __init__(self, host_limit_bytes: int = 0, device_limit_bytes: int | None = None) -> None:
        self.host = Budget(host_limit_bytes)
        self.device_limit_bytes = device_limit_bytes
        self.mode = strategies.ResolvedMode(Mode.OFF, "no prompt has run yet")
        self._asked_mode = Mode.OFF
        self._policies: Mapping[str, Policy] = {}
        self._rates: RatesMeasured | None = None
        self._exclusive: frozenset[str] = frozenset()
        self._components: dict[str, Component] = {}
        self._timeline = timeline.EMPTY
        self._position = -1
        self._running: int | None = None  # position of the visit that runs now
        self._on_device: set[str] = set()
        self.device = DeviceTier()
        self._refused: set[str] = set()  # transfers that the mover stopped in this prompt: not asked for again
        self._cancelled: set[str] = set()  # transfers that were told to stop and have not answered
        self._leaving: set[str] = set()  # host evictions announced and not yet answered

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event. Raises TypeError for what is not an event; every known event is accepted at any time."""
        return self._handle(event)

    @singledispatchmethod
    def _handle(self, event: object) -> list[Instruction]:
        raise TypeError(f"not an event: {event!r}; see residency/events.py")

    @_handle.register
    def _(self, event: PromptStarted) -> list[Instruction]:
        unneeded = [key for key in self.host.in_flight if event.timeline.next_read(key, -1) is None]
        stopped = self._cancel(unneeded, "a new prompt has started and does not read it")
        # between prompts the system may drop pages behind our back: what is there is asked again, which costs the mover a probe
        for key in list(self.host.held):
            if key not in self.host.in_flight:
                self.host.settle(key, 0)
        # what the device holds outlives the prompt: a component of an earlier prompt may still be released
        kept = self._on_device.union(self.host.in_flight)
        self._components = {key: component for key, component in self._components.items() if key in kept}
        self._components.update(event.components)
        self._timeline, self._position, self._running = event.timeline, -1, None
        self._policies = event.policies
        self._exclusive = event.exclusive
        self._refused.clear()
        self.device.refused.clear()
        self._set_mode(event.mode)
        return stopped + self._replan()

    @_handle.register
    def _(self, event: Replanned) -> list[Instruction]:
        self._components.update(event.components)
        self._timeline, self._running = event.timeline, event.running
        self._position = -1 if event.running is None else event.running
        self._exclusive = event.exclusive
        unneeded = [key for key in self.host.in_flight if event.timeline.next_read(key, -1) is None]
        return self._cancel(unneeded, "the new order no longer reads it") + self._replan()

    @_handle.register
    def _(self, event: NodeStarted) -> list[Instruction]:
        self._position = self._running = event.position
        instructions = self._cancel(self._ahead_of_its_turn(event.position), "a node that runs now reads another file first")
        for use in self._timeline.at(event.position):
            # On a drive that serves many readers the node follows the read-ahead through the file. Waiting for the whole file cost more:
            # two experts, cold, on an H100: 66.1 s held until the end, 59.3 s until half, 55.7 s not held (stock 65.9-70.0 s).
            if use.reads and use.component in self.host.in_flight and use.component in self._exclusive:
                component = self._components[use.component]
                announced_bytes = self.host.in_flight[use.component] + self.host.held.get(use.component, 0)
                reason = "its hard disk is reading it ahead; a second reader would slow both"
                instructions.append(Wait(component, Tier.HOST, announced_bytes, reason))
        return instructions + self._make_room() + self._replan()

    @_handle.register
    def _(self, event: NodeFinished) -> list[Instruction]:
        self._running = None
        instructions: list[Instruction] = []
        for use in self._timeline.at(event.position):
            if self._strategy(use.component) is not None:
                self._on_device.add(use.component)
            overtaken = use.reads and use.component in self.host.in_flight
            if overtaken and self._timeline.next_read(use.component, event.position) is None:
                instructions += self._cancel([use.component], "its node has read the rest itself")
        # Only the device is given back. Host copies cost nothing while RAM is not short (the planner sees to that), and the next prompt
        # would read them again: dropping them too made it take 50.5 s instead of 8.4 s on an H100.
        for key in sorted(self._on_device):
            if self._strategy(key) is Strategy.RELEASE and self._timeline.next_use(key, event.position) is None:
                component = self._components[key]
                reason = "nothing in this prompt or the queue needs it any more"
                instructions.append(Evict(component, Tier.DEVICE, component.size_bytes, reason))
                self._on_device.discard(key)
        return instructions + self._replan()

    @_handle.register
    def _(self, event: TransferDone | TransferStopped) -> list[Instruction]:
        if event.tier is Tier.HOST:
            self.host.settle(event.component, event.present_bytes)
            if isinstance(event, TransferStopped) and event.component not in self._cancelled:
                self._refused.add(event.component)
            self._cancelled.discard(event.component)
        elif event.tier is Tier.DEVICE:
            self.device.arrived(event.component, event.present_bytes, isinstance(event, TransferStopped))
        return self._replan()

    @_handle.register
    def _(self, event: Evicted) -> list[Instruction]:
        if event.tier is Tier.HOST:
            self._leaving.discard(event.component)
            if event.component not in self.host.in_flight:
                self.host.settle(event.component, 0)
        elif event.tier is Tier.DEVICE:
            self.device.left(event.component, event.freed_bytes)
            if event.component not in self.device.held:
                self._on_device.discard(event.component)
        return self._replan()

    @_handle.register
    def _(self, event: DeviceObserved) -> list[Instruction]:
        self.device.observe(event.held, event.room_bytes)
        if self.mode.mode is Mode.OFF or self._running is None:
            return []
        return self.device.bring_next(self._device_view())

    @_handle.register
    def _(self, event: BudgetChanged) -> list[Instruction]:
        if event.tier is Tier.DEVICE:
            self.device_limit_bytes = event.limit_bytes
            self._set_mode(self._asked_mode)
            return []
        self.host.limit_bytes = max(0, event.limit_bytes)
        return self._replan()

    @_handle.register
    def _(self, event: RatesMeasured) -> list[Instruction]:
        self._rates = event
        return []

    @_handle.register
    def _(self, event: Observed) -> list[Instruction]:
        if event.tier is Tier.DEVICE:
            self._on_device = {key for key, held_bytes in event.held.items() if held_bytes > 0}
        return []

    @_handle.register
    def _(self, event: PrefetchAsked) -> list[Instruction]:
        return []

    @_handle.register
    def _(self, event: ReleaseAsked) -> list[Instruction]:
        component = self._components.get(event.component)
        if component is None or self.mode.mode is Mode.OFF:
            return []
        self._on_device.discard(event.component)
        return [Evict(component, Tier.DEVICE, component.size_bytes, event.reason)]

    @_handle.register
    def _(self, event: ModeChanged) -> list[Instruction]:
        self._set_mode(event.mode)
        if event.mode is Mode.OFF:
            return self._cancel(self.host.in_flight, "the mode is off")
        return self._replan()

    @_handle.register
    def _(self, event: PromptEnded) -> list[Instruction]:
        self._running = None
        if event.outcome is not Outcome.SUCCESS:
            return self._cancel(self.host.in_flight, f"the prompt has ended: {event.outcome.value}")
        # what the queue reads next goes on being read: the timeline runs on into the queued prompts
        unneeded = [key for key in self.host.in_flight if self._timeline.next_read(key, self._position) is None]
        return self._cancel(unneeded, "the prompt has ended and nothing queued reads it")

    def _set_mode(self, mode: Mode) -> None:
        self._asked_mode = mode
        used = [self._components[key] for key in self._timeline.components() if key in self._components]
        self.mode = strategies.resolve(mode, used, self.device_limit_bytes)

    def _strategy(self, key: str) -> Strategy | None:
        """The component's strategy: what its policy asks, or the mode of the whole; off for the whole overrules both."""
        if self.mode.mode is Mode.OFF or key not in self._components:
            return None
        policy = self._policies.get(key)
        if policy is not None and policy.strategy is not None:
            return policy.strategy
        if policy is None or policy.mode in (None, Mode.AUTO):
            return strategies.strategy_of(self.mode.mode)
        return strategies.strategy_of(policy.mode)

    def _make_room(self) -> list[Instruction]:
        return [] if self.mode.mode is Mode.OFF else self.device.make_room(self._device_view())

    def device_victims(self) -> list[str]:
        """Components that may leave the device now, in the order in which they should."""
        return [] if self.mode.mode is Mode.OFF else self.device.victims(self._device_view())

    def _device_view(self) -> View:
        running = frozenset(use.component for use in self._timeline.at(self._position) if use.kind is UseKind.COMPUTE)
        return View(
            self._timeline, self._position, self._components, running, self._may_prefetch_to_device, self._may_leave_device, self._priority
        )

    def _may_prefetch_to_device(self, key: str) -> bool:
        policy = self._policies.get(key)
        return self._strategy(key) not in (None, Strategy.LAYERWISE) and (policy is None or policy.prefetch)

    def _may_leave_device(self, key: str) -> bool:
        # high-vram that was chosen, not found: the user wants it kept, and ComfyUI decides when there is no room
        strategy = self._strategy(key)
        return strategy is not None and (strategy is not Strategy.RESIDENT or self._asked_mode is Mode.AUTO)

    def _priority(self, key: str) -> int:
        policy = self._policies.get(key)
        return 0 if policy is None else policy.priority

    def _busy(self) -> frozenset[str]:
        if self._running is None:
            return frozenset(self._leaving)
        return frozenset(self._leaving).union(use.component for use in self._timeline.at(self._running))

    def _replan(self) -> list[Instruction]:
        if self.mode.mode is Mode.OFF or not (self._timeline.uses or self.host.held):
            return []
        view = HostView(self.host.held, self.host.in_flight, self.host.limit_bytes)
        decided = plan(self._timeline, self._position, self._components, view, self._busy(), self._may_prefetch)
        instructions: list[Instruction] = []
        for move in decided.evictions:
            self._leaving.add(move.component)
            instructions.append(Evict(self._components[move.component], Tier.HOST, move.size_bytes, move.reason))
        if decided.evictions:
            return instructions  # the room is there once the mover says so: prefetches wait for its answer
        for move in decided.prefetches:
            held_bytes = self.host.held.get(move.component, 0)
            if self.host.reserve(move.component, move.size_bytes - held_bytes):
                instructions.append(Prefetch(self._components[move.component], Tier.HOST, move.size_bytes, move.reason))
        return instructions

    def _may_prefetch(self, key: str) -> bool:
        return key not in self._refused and key not in self._leaving and self._strategy(key) is not None

    def _ahead_of_its_turn(self, position: int) -> list[str]:
        """Transfers announced before one that the starting visit reads, though they are read later: they would keep it waiting."""
        needed = {use.component for use in self._timeline.at(position) if use.reads}
        announced = list(self.host.in_flight)  # in the order in which the mover takes them
        last = max((index for index, key in enumerate(announced) if key in needed), default=0)
        return [key for key in announced[:last] if key not in needed]

    def _cancel(self, keys: Iterable[str], reason: str) -> list[Instruction]:
        """Each transfer is told to stop once; it stays in flight, and its bytes reserved, until the mover has answered."""
        stopping = [key for key in keys if key not in self._cancelled]
        self._cancelled.update(stopping)
        return [Cancel(self._components[key], Tier.HOST, reason) for key in stopping]
