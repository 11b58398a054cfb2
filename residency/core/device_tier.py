"""The plan of the device: room made for a node in one go, and the next node's weights brought over while this one computes.

The host tells the contents (`DeviceObserved`), before each node and while one runs, with all that ComfyUI has moved by itself. The
component needed last leaves first (Belady 1966), its end first: a prefix stays, so that a node that needs it again starts at once and the
rest follows. Where a weight has one copy over two tiers, room is made by exchange instead (device_placement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .component import Component, Tier
from .component_state import TierState
from .device_placement import Copies, Placement
from .events import DeviceObserved, TransferDone, TransferStopped
from .instructions import Cancel, Evict, Instruction, Prefetch
from .moves import State
from .timeline import Timeline, UseKind

NEVER = float("inf")
# Of the time that a node is expected to take: announcing 10 GB takes 0.1 s of it, and a guess may be wrong. With all of it nodes of 0.13
# and 0.26 s took 0.3 s longer each (H100, 24 GB on the device). With nothing begun that would not arrive whole, the link lay idle in front
# of the largest models, the ones that are waited for: 1.96 s of stall, on another card with an earlier version 1.36 s.
HIDDEN_SHARE = 0.75
LEAST_SHARE = 1 / 16  # of the missing bytes: fewer are not worth a look at each module
LOOK_AHEAD = 64  # computing visits: weights of later ones cannot be brought over while this one computes


class DeviceTier:
    """The records of the device, and the room that is left; nothing is decided before a host has looked."""

    def __init__(self) -> None:
        self.state = TierState(Tier.DEVICE)
        self.seen = False  # a host has looked: the limit is the bytes that were there then, and the room beside them
        self.in_host: Mapping[str, int] | None = None  # bytes with a copy in host memory; None: not told
        self.placement = Placement()
        self.own: dict[str, tuple[int, int]] = {}  # told to come for the node that runs: bytes held and in host memory when it started
        # the same of components of which nothing came: a decoder never uses its encoder, and looking at each module takes 20 ms
        self._in_vain: dict[str, tuple[int, int]] = {}
        self._look: DeviceObserved | None = None

    # --- events ---

    def observe(self, look: DeviceObserved) -> None:
        state = self.state
        for key in dict.fromkeys((*look.held, *state.records)):
            state.seen(key, look.held.get(key, 0), "the host has looked")
        state.budget.limit_bytes = state.budget.held_bytes + look.room_bytes
        self.seen, self.in_host, self._look = True, look.in_host, look

    def node_has_used(self, key: str, size_bytes: int) -> None:
        """A node has computed with the component: all of it lies there, until the next look says how much."""
        self.state.seen(key, size_bytes, "a node has computed with it")

    def arrived(self, event: TransferDone | TransferStopped, refusal: str | None = None) -> None:
        """A transfer or an exchange has ended, or the host has brought something by itself."""
        key, own = event.component, self.own.pop(event.component, None)
        record, exchanged = self.state.of(key), self.placement.answered(key)
        held_bytes = max(event.present_bytes, record.held_bytes)
        if own is not None and not event.moved_bytes and record.state is not State.STOPPING:
            self._in_vain[key] = own
        if refusal is None or own is not None or exchanged:  # one that its own node could not have may come ahead of a later one
            self.state.landed(key, held_bytes)
        else:
            self.state.stopped(key, held_bytes, refusal)

    def left(self, key: str, freed_bytes: int, reason: str) -> None:
        """Bytes of the component have left the device, told or untold."""
        held_bytes = self.state.of(key).held_bytes
        kept_bytes = max(0, held_bytes - freed_bytes) if self.seen else 0
        self.state.left(key, kept_bytes, reason)
        self.state.budget.limit_bytes += max(0, freed_bytes - held_bytes)  # nobody had seen those: their room is new

    def holds(self, key: str) -> bool:
        """Whether some of the component lies there and was not told to leave."""
        record = self.state.records.get(key)
        return record is not None and record.stays_bytes > 0

    # --- instructions ---

    def node_starts(self, view: View) -> list[Instruction]:
        """For the node that starts now: all the room that its weights need, at once; the part of them that host memory holds; and,
        where the node's duration and working set are known, as much of the next ones' weights as can arrive by its end: ComfyUI waits for
        every copy there.

        The device stands still between two nodes: giving room back costs least now. In the middle of one it waits for all that is
        announced, and stood still for 0.1 s then (H100, a step of 0.22 s)."""
        if not self.seen or view.position >= len(view.timeline.visits):
            return []
        self.placement.decide(self._look)
        self.placement.settle(self._look, view.passed_once(), view.most_working_set_bytes())
        visit = view.timeline.visits[view.position]
        used = [use.component for use in view.timeline.at(view.position)]
        if self.placement.copies is Copies.ONE:
            leaving = [view.components[key] for _, key in self._victims(view)]
            reason = f"{visit.class_type} {visit.node_id} computes with it; one copy of each: {self.placement.reason}"
            exchanges = self.placement.exchange(view.computes, leaving, passed_once=visit.passes_once, reason=reason)
            return [*self.cancel(used, view.components, "it is exchanged"), *exchanges]
        running = [key for key in view.running if key in view.components]
        needed_bytes = sum(max(0, view.components[key].size_bytes - self._stays_bytes(key)) for key in running)
        # nothing comes in: its working set is the allocator's to find
        short_bytes = needed_bytes + visit.working_set_bytes - self._room_bytes() if needed_bytes else 0
        evictions = self._evict(short_bytes, view, NEVER, f"makes room for {visit.class_type} {visit.node_id}")
        room_bytes = self._room_bytes() - visit.working_set_bytes
        own = self._bring_own(view, room_bytes)
        instructions: list[Instruction] = [*self.placement.cancel("another node has started")]
        # a loader, or nothing of it lies in host memory
        instructions += self.cancel([key for key in used if key not in self.own], view.components, "its node loads the rest itself")
        instructions += [*evictions, *own]
        if not view.looks_ahead:
            return instructions
        comes_bytes = HIDDEN_SHARE * view.comes_bytes - needed_bytes  # its own come first
        return [*instructions, *self._bring_next(view, comes_bytes, room_bytes - needed_bytes, may_evict=True)]

    def _bring_own(self, view: View, room_bytes: int) -> list[Prefetch]:
        """Prefetches of the starting node's own components, as far as host memory has them: at once and at the link's full rate, where
        ComfyUI would fetch them layer by layer. Beyond `room_bytes` ComfyUI makes room when it loads the model."""
        visit = view.timeline.visits[view.position]
        found: list[Prefetch] = []
        for component in view.computes:
            key, record = component.key, self.state.of(component.key)
            copied_bytes = 0 if self.in_host is None else self.in_host.get(key, 0)
            missing_bytes = component.size_bytes - record.held_bytes
            if missing_bytes <= 0 or not copied_bytes or self._in_vain.get(key) == (record.held_bytes, copied_bytes):
                continue
            if record.state is State.STOPPING:
                continue  # the answer to the stopped one would be taken for that to this one, which nobody would cancel then
            self.own[key] = record.held_bytes, copied_bytes
            reason = f"{visit.class_type} {visit.node_id} computes with it"
            planned_bytes = max(0, min(missing_bytes, room_bytes))
            room_bytes -= planned_bytes
            if record.state is State.ANNOUNCED and planned_bytes > record.coming_bytes:
                self.state.extend(key, planned_bytes - record.coming_bytes, reason)
            elif record.state in (State.ABSENT, State.HELD) and planned_bytes and record.may_come:
                self.state.announce(key, planned_bytes, reason)
            found.append(Prefetch(component, Tier.DEVICE, component.size_bytes, reason, ahead=False))
        return found

    def node_steps(self, view: View) -> list[Instruction]:
        """Prefetches for the next nodes while this one computes: its working set is among the bytes that were seen. Others leave for them
        only where that was not done when the node started."""
        if not self.seen or self.placement.copies is Copies.ONE:
            return []
        return self._bring_next(view, view.comes_bytes, self._room_bytes(), may_evict=not view.looks_ahead)

    def node_ends(self, components: Mapping[str, Component]) -> list[Instruction]:
        """Cancels of the node's own components that it has not loaded: nobody else waits for them."""
        reason = "its node has ended"
        unplanned = [Cancel(components[key], Tier.DEVICE, reason) for key in self.own if key not in self.state.coming and key in components]
        return [*self.cancel(list(self.own), components, reason), *unplanned]

    def stop(self, components: Mapping[str, Component], reason: str) -> list[Instruction]:
        """Cancels of all that is on its way, with exchanges that have not taken place."""
        return [*self.node_ends(components), *self.cancel(list(self.state.coming), components, reason), *self.placement.cancel(reason)]

    def cancel(self, keys: Iterable[str], components: Mapping[str, Component], reason: str) -> list[Instruction]:
        """Stop the transfers of these; the mover's answers settle them."""
        instructions: list[Instruction] = []
        for key in keys:
            record = self.state.coming.get(key)
            if record is not None and record.state is State.ANNOUNCED and key in components:
                self.state.stop(key, reason)
                instructions.append(Cancel(components[key], Tier.DEVICE, reason))
        return instructions

    def release(self, component: Component, reason: str) -> list[Instruction]:
        """All of it leaves, be it there or on its way, or there without having been seen."""
        key, state = component.key, self.state
        record = state.of(key)
        if record.coming_bytes:
            was = record.state
            state.give_up(key, reason)
            return [Cancel(component, Tier.DEVICE, reason)] if was is State.ANNOUNCED else []
        if record.held_bytes:
            state.leave(key, record.stays_bytes, reason)
        return [Evict(component, Tier.DEVICE, component.size_bytes, reason)]

    def _room_bytes(self) -> int:
        """Bytes that weights may take, as if all that was told to leave had left, and nothing on its way had come."""
        return self.state.budget.limit_bytes - self.state.budget.held_bytes + self.state.leaving_bytes

    def _stays_bytes(self, key: str) -> int:
        record = self.state.records.get(key)
        return 0 if record is None else record.stays_bytes

    def _bring_next(self, view: View, comes_bytes: float, room_bytes: int, *, may_evict: bool) -> list[Instruction]:
        """Prefetches for the next nodes, in order: no more than `comes_bytes` in all, nor than `room_bytes` and, with `may_evict`, the
        bytes that are needed later and leave for them."""
        instructions: list[Instruction] = []
        state = self.state
        room_bytes -= sum(record.coming_bytes for key, record in state.coming.items() if key not in view.running)
        for key, needed_at in _next_uses(view):
            record = state.of(key)
            if record.leaving_bytes:
                break  # its rest comes first when it has left
            if not record.may_come or record.state is State.STOPPING:
                continue
            whole_bytes, coming_bytes = view.components[key].size_bytes, record.held_bytes + record.coming_bytes
            missing_bytes = min(whole_bytes, whole_bytes if self.in_host is None else self.in_host.get(key, 0)) - coming_bytes
            if missing_bytes <= 0 or not view.may_prefetch(key):
                continue
            wanted_bytes = int(min(missing_bytes, comes_bytes))
            least_bytes = LEAST_SHARE * missing_bytes
            if wanted_bytes < least_bytes:
                break
            if wanted_bytes > room_bytes and may_evict:
                why = f"makes room for {view.components[key].name}"
                evictions = self._evict(wanted_bytes - room_bytes, view, needed_at, why, spared=key)
                instructions += evictions
                room_bytes += sum(one.size_bytes for one in evictions)
            size_bytes = min(wanted_bytes, room_bytes)
            if size_bytes < least_bytes:
                break
            room_bytes -= size_bytes
            comes_bytes -= size_bytes
            visit = view.timeline.visits[needed_at]
            reason = f"{visit.class_type} {visit.node_id} computes with it, {_ahead(needed_at - view.position)}"
            if record.coming_bytes:
                state.extend(key, size_bytes, reason)
            else:
                state.announce(key, size_bytes, reason)
            instructions.append(Prefetch(view.components[key], Tier.DEVICE, coming_bytes + size_bytes, reason))
            if size_bytes < missing_bytes:
                break
        return instructions

    def _evict(self, short_bytes: int, view: View, needed_after: float, reason: str, *, spared: str = "") -> list[Evict]:
        """Evictions that give at least `short_bytes` back, of components next needed after `needed_after`; fewer where that is all."""
        evictions: list[Evict] = []
        if short_bytes <= 0:
            return evictions
        for next_use, key in self._victims(view):
            if short_bytes <= 0:
                break
            if key == spared:
                continue
            # for one that comes early only those leave that are needed later and have a copy, or they would be read from the drive again
            if needed_after != NEVER and (next_use <= needed_after or not self._has_copy(key)):
                continue
            size_bytes = min(self._stays_bytes(key), short_bytes)
            told = "nothing needs it any more" if next_use == NEVER else f"its next use is at visit {next_use:.0f}"
            why = f"{reason}; {told}"
            self.state.leave(key, size_bytes, why)
            evictions.append(Evict(view.components[key], Tier.DEVICE, size_bytes, why, self._stays_bytes(key)))
            short_bytes -= size_bytes
        return evictions

    def _has_copy(self, key: str) -> bool:
        return self.in_host is None or self.in_host.get(key, 0) >= self.state.records[key].held_bytes

    def _victims(self, view: View) -> Iterator[tuple[float, str]]:
        """(next use, component), best victim first: the lowest priority, then the farthest next use, then the smallest."""
        candidates = []
        for key, record in self.state.records.items():
            stays_bytes = record.stays_bytes
            if stays_bytes <= 0 or key in view.running or record.coming_bytes or key not in view.components or not view.may_evict(key):
                continue
            next_at = view.timeline.next_compute_at(key, view.position)
            candidates.append((view.priority(key), -NEVER if next_at is None else -next_at, stays_bytes, key))
        candidates.sort()
        return ((-use, key) for _, use, _, key in candidates)


@dataclass(frozen=True, slots=True)
class View:
    """The prompt as the device tier sees it. `running`: components of the node at `position`; `may_return(key)`: whether it may come for
    the prompt that usually comes next, though nobody has queued that; `comes_bytes` can cross the link while the node runs;
    infinite where nobody knows how long it runs, or how fast the link is."""

    timeline: Timeline
    position: int
    components: Mapping[str, Component]
    running: frozenset[str]
    may_prefetch: Callable[[str], bool] = lambda key: True
    may_return: Callable[[str], bool] = lambda key: True
    may_evict: Callable[[str], bool] = lambda key: True
    priority: Callable[[str], int] = lambda key: 0
    comes_bytes: float = NEVER

    @property
    def computes(self) -> list[Component]:
        """Components that the node at `position` computes with, in order, each once."""
        used = dict.fromkeys(use.component for use in self.timeline.at(self.position) if use.kind is UseKind.COMPUTE)
        return [self.components[key] for key in used if key in self.components]

    def passed_once(self) -> list[Component]:
        """Components that no visit goes through more than once."""
        several: dict[str, bool] = {}
        for use in self.timeline.uses:
            if use.kind is UseKind.COMPUTE:
                several[use.component] = several.get(use.component, False) or not self.timeline.visits[use.position].passes_once
        return [self.components[key] for key, often in several.items() if not often and key in self.components]

    def most_working_set_bytes(self) -> int:
        return max((visit.working_set_bytes for visit in self.timeline.visits), default=0)

    @property
    def looks_ahead(self) -> bool:
        """Whether enough is known of the node to bring over later ones' weights from its start on."""
        return self.comes_bytes < NEVER and (not self.running or self.timeline.visits[self.position].working_set_bytes > 0)


def _next_uses(view: View) -> Iterator[tuple[str, int]]:
    """Components in the order in which the next visits compute with them, each once. The prompt that usually comes next counts as
    well: bringing its weights back from host memory costs nothing that anybody waits for; those that somebody wanted out of the device stay
    out until they are used."""
    seen = set(view.running)
    expected_from = view.timeline.expected_from
    visits = 0
    for position in range(view.position + 1, len(view.timeline.visits)):
        uses = [use for use in view.timeline.at(position) if use.kind is UseKind.COMPUTE]
        visits += bool(uses)
        if visits > LOOK_AHEAD:
            return
        nobody_asked = expected_from is not None and position >= expected_from
        for use in uses:
            key = use.component
            if key not in seen and key in view.components and not (nobody_asked and not view.may_return(key)):
                seen.add(key)
                yield key, position


def _ahead(count: int) -> str:
    return "next" if count <= 1 else f"{count} nodes ahead"
