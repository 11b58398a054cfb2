"""The deciding core: events in, instructions out. It touches no device, no file and no clock.

The manager knows where the running prompt is on its timeline; the bytes there, on their way and leaving stand in the records of its two
tiers. After each event that could change the answer it asks the planner for a plan and turns that into instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from .component import Component, Mode, Strategy, Tier
from .component_state import Entry, TierState
from .device_placement import Copies, Placement
from .device_tier import DeviceTier, View
from .events import (
    RECORDS,
    BudgetChanged,
    DeviceObserved,
    Event,
    Evicted,
    HostObserved,
    NodeFinished,
    NodeStarted,
    Outcome,
    PrefetchAsked,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    ReleaseAsked,
    Replanned,
    Taken,
    TransferDone,
    TransferStopped,
)
from .host_tier import HostTier
from .instructions import Instruction, Wait
from .moves import State
from .needed import needed_again
from .place import Place
from .releases import Releases
from .story import in_order
from .strategies import Placements, ResolvedMode
from .timeline import Use, UseKind

NONE: frozenset[str] = frozenset()


def _used_by(uses: Sequence[Use]) -> frozenset[str]:
    return frozenset([use.component for use in uses]) if uses else NONE


class Manager:
    """`handle(event)` returns the instructions that follow from it, in the order in which they must be given."""

    def __init__(self, host_limit_bytes: int = 0, device_limit_bytes: int | None = None) -> None:
        self._host = HostTier(host_limit_bytes)
        self._device = DeviceTier()
        self.device_limit_bytes = device_limit_bytes
        self._placements = Placements()
        self._running: frozenset[str] = frozenset()  # components of the node that runs now
        self._soon: frozenset[str] = frozenset()  # between two nodes: components of the one that starts now
        self._used: set[str] = set()  # were on the device, and may have been used for the last time
        self._observed = False  # the host looks into its page cache, nothing has to be asked again
        self.kept: dict[str, Component] = {}  # those that the last prompt to know them asked to keep beyond its end
        self._releases = Releases(self._host, self._device)
        self._handlers: dict[type[Any], Callable[[Any], list[Instruction]]] = {
            PromptStarted: self._prompt_started,
            Replanned: self._replanned,
            NodeStarted: self._node_started,
            NodeFinished: self._node_finished,
            TransferDone: self._transfer_ended,
            TransferStopped: self._transfer_ended,
            Evicted: self._evicted,
            BudgetChanged: self._budget_changed,
            RatesMeasured: self._rates_measured,
            HostObserved: self._looked_at_host,
            Taken: self._taken,
            DeviceObserved: self._looked_at_device,
            PrefetchAsked: self._prefetch_asked,
            ReleaseAsked: self._release_asked,
            PromptEnded: self._prompt_ended,
            **dict.fromkeys(RECORDS, lambda event: []),
        }

    @property
    def mode(self) -> ResolvedMode:
        """The mode of the whole, `auto` resolved, and the reason in words."""
        return self._placements.mode

    @property
    def placement(self) -> Placement:
        """The placement of the prompt's weights, and its reason."""
        return self._device.placement

    @property
    def host(self) -> TierState:
        """The records and the limit of the host tier. To be read alone."""
        return self._host.state

    @property
    def device(self) -> TierState:
        """The records of the device. To be read alone."""
        return self._device.state

    def validate(self) -> None:
        """Hold everything that is kept twice against its source. For tests; raises AssertionError."""
        self._host.validate()
        self._device.state.validate()

    def story(self, key: str) -> list[Entry]:
        """The last moves of the component on both tiers, oldest first."""
        return in_order((self._host.state.story(key), self._device.state.story(key)))

    def handle(self, event: Event) -> list[Instruction]:
        """Take one event. Raises TypeError for anything that is no event; every known event is accepted at any time."""
        handler = self._handlers.get(type(event))
        if handler is None:
            raise TypeError(f"not an event: {event!r}; see residency/core/events.py")
        self._host.state.now_s = self._device.state.now_s = event.time_s
        return handler(event)

    # --- prompts and nodes ---

    def _prompt_started(self, event: PromptStarted) -> list[Instruction]:
        host, timeline = self._host, event.timeline
        host.ask_no_more(list(host.state.asked))
        stopped = host.cancel_unread(timeline, -1, "a new prompt has started and does not read it")
        # the contents of both tiers outlive the prompt: a component of an earlier one may still be released
        host.new_prompt(event.components, frozenset(self._device.state.held))
        self._device.state.renew(host.components)
        self._placements.set_policies(event.policies)
        self.kept = {key: component for key, component in self.kept.items() if key not in event.policies}
        asked = [key for key, policy in event.policies.items() if policy.keep and key in host.components]
        self.kept.update((key, host.components[key]) for key in asked)
        if not self._observed:
            host.forget()
        self._device.placement.begin(event.components.values())
        self._begin(event)
        self._set_mode(event.mode)
        return stopped + self._replan()

    def _replanned(self, event: Replanned) -> list[Instruction]:
        self._host.know(event.components)
        self._begin(event)
        if event.running is not None:
            self._host.begin(Place(event.timeline, event.running, True, event.running, event.time_s), self._placements.policies)
            self._running = _used_by(event.timeline.at(event.running))
            self._soon = NONE
        stopped = self._host.cancel_unread(event.timeline, -1, "the new order no longer reads it")
        if not self._placements.off:
            stopped += self._host.cancel_overtaken("the new order reads another one first")
        return stopped + self._replan()

    def _begin(self, event: PromptStarted | Replanned) -> None:
        self._running = NONE
        self._soon = _used_by(event.timeline.at(0))
        self._used.update(self._device.state.held)
        self._host.terms.alone = event.single_reader
        self._host.terms.may_prefetch = self._may_prefetch
        self._host.begin(Place(event.timeline), self._placements.policies)

    def _node_started(self, event: NodeStarted) -> list[Instruction]:
        host, place, position = self._host, self._host.place, event.position
        uses = place.timeline.at(position)
        expected = position == place.position + 1
        place.position, place.running = position, True
        place.visit, place.begun_s = position, event.time_s
        if not expected:  # the executor chose another node: all that was passed over counts as passed
            host.begin(place)
        self._running = self._soon if expected and self._soon else _used_by(uses)
        self._soon = NONE
        self._releases.used(self._running)
        is_planned = host.pass_by(self._running)
        if self._placements.off:
            return []
        instructions = self._device.node_starts(self._device_view()) if self._device.seen else []
        coming = host.state.coming
        awaited = [use.component for use in uses if use.reads and use.component in coming] if coming else ()
        if awaited:
            instructions += host.cancel(self._ahead_of_their_turn(awaited), "a node that runs now reads another file first")
            for key in awaited:
                # On a drive that serves many readers the node follows the read-ahead. Waiting for the whole file cost more:
                # two experts, cold, on an H100: 66.1 s held until the end, 59.3 s until half, 55.7 s not held (stock 65.9-70.0 s).
                if key in host.terms.alone:
                    reason = "its hard disk is reading it ahead; a second reader would slow both"
                    announced_bytes = coming[key].coming_bytes + coming[key].held_bytes
                    instructions.append(Wait(host.components[key], Tier.HOST, announced_bytes, reason))
        if expected and is_planned:
            return instructions
        return instructions + self._replan()

    def _node_finished(self, event: NodeFinished) -> list[Instruction]:
        host, place, position = self._host, self._host.place, event.position
        timeline = place.timeline
        self._running = NONE
        place.running = False
        place.visit, place.begun_s = position + 1, event.time_s
        if self._placements.off:
            return []
        instructions = self._device.node_ends(host.components) if self._device.own else []
        components, coming, may_release = host.components, host.state.coming, self._placements.may_release
        for use in timeline.at(position):
            key = use.component
            component = components.get(key)
            if component is not None:
                self._device.node_has_used(key, component.size_bytes)
                if may_release:
                    self._used.add(key)
            host.let_go(key, self.placement.outside.get(key, 0))
            if use.reads and key in coming:
                if timeline.next_read_number(key, position) is None:
                    instructions += host.cancel([key], "its node has read the rest itself")
            elif use.reads and not self._observed:
                host.node_has_read(key)
        if may_release:
            instructions += self._released_after(position)
        self._used.clear()
        instructions += self._releases.due()
        # the next node's components are as good as in use: it starts at once
        self._soon = _used_by(timeline.at(position + 1))
        return instructions + self._replan()

    def _released_after(self, position: int) -> list[Instruction]:
        # Only the device is given back. Host copies cost nothing while RAM is not short (the planner sees to that), and the next prompt
        # would read them again: dropping them too made it take 50.5 s instead of 8.4 s on an H100.
        instructions: list[Instruction] = []
        timeline = self._host.place.timeline
        for key in sorted(key for key in self._used if self._placements.of(key) is Strategy.RELEASE):
            if key not in self._host.components or not self._device.holds(key):
                continue
            # whoever did not ask for it shall not wait for it either when the same workflow runs again; where the device has the only copy,
            # giving it back means reading it again
            is_lost = self.placement.copies is Copies.ONE or timeline.next_compute_at(key, position) is not None
            again = self._placements.is_auto(key) and is_lost
            if timeline.next_use(key, position) is None and not again:
                reason = "nothing in this prompt or the queue needs it any more"
                instructions += self._device.release(self._host.components[key], reason)
        return instructions

    def _prompt_ended(self, event: PromptEnded) -> list[Instruction]:
        host = self._host
        self._running = self._soon = NONE
        host.place.running = False
        if event.outcome is Outcome.ABANDONED:
            self._releases.drop_put_off()
        device = self._device.stop(host.components, "the prompt has ended") + self._releases.due()
        if event.outcome is not Outcome.SUCCESS:
            stopped = host.cancel(list(host.state.coming), event.reason or f"the prompt has ended: {event.outcome.value}")
            host.ask_no_more(list(host.state.asked))
            host.begin(Place())  # nothing of it is read ahead any more
            return device + stopped
        # reads for the queue go on: the timeline runs on into the queued prompts
        reason = "the prompt has ended and nothing queued reads it"
        return device + host.cancel_unread(host.place.timeline, host.place.position, reason)

    # --- movers and tiers ---

    def _transfer_ended(self, event: TransferDone | TransferStopped) -> list[Instruction]:
        host, key = self._host, event.component
        refusal = event.reason if isinstance(event, TransferStopped) else None
        if event.tier is Tier.DEVICE:
            given_up = self._device.state.of(key).state is State.GIVEN_UP
            self._device.arrived(event, refusal)
            return self._releases.arrived(event, self._running) if given_up and self._device.holds(key) else []
        coming = host.state.coming.get(key)
        given_up = coming is not None and coming.state is State.GIVEN_UP
        if refusal is None:
            host.landed(key, event.present_bytes)
        else:
            host.stopped(key, event.present_bytes, refusal)
        if given_up:
            return self._releases.arrived(event, self._running) + self._replan()
        # bytes that land as announced were planned for
        return self._replan() if host.changed else []

    def _evicted(self, event: Evicted) -> list[Instruction]:
        if event.tier is Tier.HOST:
            announced = self._host.room_came(event.component, event.reason)
            if announced is not None and not self._placements.off:
                return announced
        elif event.tier is Tier.DEVICE:
            self._device.left(event.component, event.freed_bytes, event.reason)
        return self._replan()

    def _budget_changed(self, event: BudgetChanged) -> list[Instruction]:
        if event.tier is Tier.DEVICE:
            self.device_limit_bytes = event.limit_bytes
            self._set_mode(self._placements.asked)
            return []
        self._host.set_limit(event.limit_bytes, event.reserve_bytes)
        return [] if event.look_follows else self._replan()

    def _rates_measured(self, event: RatesMeasured) -> list[Instruction]:
        self._host.rates = event
        return []

    def _looked_at_host(self, event: HostObserved) -> list[Instruction]:
        self._observed = event.held is not None
        self._host.observe(event)
        return self._replan()

    def _taken(self, event: Taken) -> list[Instruction]:
        self._host.took(event)
        return self._replan()

    def _looked_at_device(self, event: DeviceObserved) -> list[Instruction]:
        self._device.observe(event)
        if self._placements.off or not self._running:
            return []
        return self._device.node_steps(self._device_view())

    # --- the user's wishes ---

    def _prefetch_asked(self, event: PrefetchAsked) -> list[Instruction]:
        if event.component not in self._host.components or self._placements.off:
            return []
        self._releases.used([event.component])
        self._host.ask(event.component, event.reason)
        return self._replan()

    def _release_asked(self, event: ReleaseAsked) -> list[Instruction]:
        if event.component not in self._host.components or self._placements.off:
            return []
        if event.component in self._running:
            self._releases.put_off(event)
            return []
        return self._releases.now(event) + self._replan()

    # --- models that the running prompt does not use ---

    def needed_again(self, key: str) -> str | None:
        """Why a loaded component that this prompt may not even use should stay loaded; None: it may go."""
        if self._placements.off:
            return None
        room_bytes = self.host.limit_bytes if self.placement.copies is Copies.BOTH else None
        host = self._host
        return needed_again(key, host.place, host.components, is_kept=key in self.kept, room_bytes=room_bytes)

    # --- deciding ---

    def _set_mode(self, mode: Mode) -> None:
        components = self._host.components
        used = [components[key] for key in self._host.place.timeline.components() if key in components]
        self._placements.set_mode(mode, used, self.device_limit_bytes)
        self._used.update(self._device.state.held)

    def _replan(self) -> list[Instruction]:
        if self._placements.off:
            return []
        placement, terms = self._device.placement, self._host.terms
        terms.passes = placement.copies is Copies.ONE
        if terms.passes or terms.passing:
            terms.passing = self._running.intersection(placement.outside)
        return self._host.replan(self._running or self._soon)

    def _device_view(self) -> View:
        place, rates, until_s = self._host.place, self._host.rates, self._host.place.until_s
        running = frozenset(use.component for use in place.timeline.at(place.position) if use.kind is UseKind.COMPUTE)
        onload = None if rates is None else rates.onload
        comes_bytes = float("inf") if onload is None or until_s is None else max(0.0, onload * (until_s - self._host.state.now_s))
        return View(
            place.timeline,
            place.position,
            self._host.components,
            running,
            may_prefetch=self._placements.may_come_to_device,
            may_return=self._may_return_to_device,
            may_evict=self._placements.may_leave_device,
            priority=self._placements.priority,
            comes_bytes=comes_bytes,
        )

    def _may_return_to_device(self, key: str) -> bool:
        given_back = self._placements.of(key) is Strategy.RELEASE and not self._placements.is_auto(key)
        return not given_back and key not in self._releases

    def _may_prefetch(self, key: str) -> bool:
        policy = self._placements.policies.get(key)
        if policy is None:
            return True  # nobody plans while the mode is off
        return self._placements.of(key) is not None and (policy.prefetch or key in self._host.state.asked)

    def _ahead_of_their_turn(self, needed: Collection[str]) -> list[str]:
        """Transfers announced before one of these, which the starting visit reads, though they are read later: it would wait for them."""
        announced = list(self._host.state.coming)  # in the order in which the mover takes them
        last = max(index for index, key in enumerate(announced) if key in needed)
        return [key for key in announced[:last] if key not in needed]
