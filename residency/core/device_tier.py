"""What should lie on the device: room made for a node in one go, and the next node's weights brought over while this one computes.

The host tells what it has found there (`DeviceObserved`), before each node and while one runs; whatever ComfyUI moved by itself is in
that. What leaves first is what is needed last (Belady 1966), the end of it first: what stays is a prefix, so that a node that needs it
again starts at once and the rest follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from .component import Component, Tier
from .events import Cancel, Evict, Instruction, Prefetch
from .timeline import Timeline, UseKind

NEVER = float("inf")
# Of the time that a node is expected to take: announcing 10 GB takes 0.1 s of it, and a guess may be wrong. With all of it nodes of 0.13
# and 0.26 s took 0.3 s longer each (H100, 24 GB on the device). With nothing begun that would not arrive whole, the link lay idle in front
# of the largest models, the ones that are waited for: 1.96 s of stall, on another card with an earlier version 1.36 s.
HIDDEN_SHARE = 0.75
LEAST_SHARE = 1 / 16  # of what is missing: less is not worth a look at each of its modules
LOOK_AHEAD = 64  # computing visits: what lies beyond cannot be brought over while this one computes


@dataclass(slots=True)
class DeviceTier:
    """Bytes by component that lie on the device or are on their way, and the room that is left; nothing is done before it is known."""

    held: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)  # bytes still to come
    refused: set[str] = field(default_factory=set)  # not asked for again in this prompt
    cancelled: set[str] = field(default_factory=set)  # told to stop: that it stopped is no refusal
    room_bytes: int | None = None
    in_host: Mapping[str, int] | None = None  # bytes with a copy in host memory; None: not told

    def observe(self, held: Mapping[str, int], room_bytes: int, in_host: Mapping[str, int] | None = None) -> None:
        """`room_bytes`: what weights may take beside all that is there now."""
        self.held = dict(held)
        self.room_bytes = room_bytes
        self.in_host = in_host

    def arrived(self, key: str, present_bytes: int, refused: bool) -> None:
        """A transfer has ended."""
        self.in_flight.pop(key, None)
        if refused and key not in self.cancelled:
            self.refused.add(key)
        self.cancelled.discard(key)
        gained_bytes = present_bytes - self.held.get(key, 0)
        if gained_bytes > 0 and self.room_bytes is not None:
            self.held[key] = present_bytes
            self.room_bytes -= gained_bytes

    def left(self, key: str, freed_bytes: int) -> None:
        """Bytes of the component have left the device."""
        if self.room_bytes is not None:
            self.room_bytes += freed_bytes
        kept_bytes = self.held.pop(key, 0) - freed_bytes
        if kept_bytes > 0:
            self.held[key] = kept_bytes

    def node_starts(self, view: View) -> list[Instruction]:
        """For the node that starts now: all the room that its weights need, at once; and, where it is known how long the node takes and
        what it computes with beside them, as much of what the next ones need as can arrive by its end: ComfyUI waits for every copy there.

        The device stands still between two nodes: giving room back costs least now. In the middle of one it waits for all that is
        announced, and stood still for 0.1 s then (H100, a step of 0.22 s)."""
        if self.room_bytes is None:
            return []
        visit = view.timeline.visits[view.position]
        held = dict(self.held)
        needed_bytes = sum(max(0, view.components[key].size_bytes - held.get(key, 0)) for key in view.running if key in view.components)
        # nothing comes in: what it computes with beside its weights is the allocator's to find
        short_bytes = needed_bytes + visit.working_set_bytes - self.room_bytes if needed_bytes else 0
        evictions = self._evict(short_bytes, view, NEVER, f"makes room for {visit.class_type} {visit.node_id}", held)
        if not view.looks_ahead:
            return list(evictions)
        freed_bytes = sum(one.size_bytes for one in evictions)
        spare_bytes = self.room_bytes + freed_bytes - needed_bytes - visit.working_set_bytes
        comes_bytes = HIDDEN_SHARE * view.comes_bytes - needed_bytes  # its own come first
        return [*evictions, *self._bring_next(replace(view, comes_bytes=comes_bytes), spare_bytes, held)]

    def node_steps(self, view: View) -> list[Instruction]:
        """While a node computes, its working set is part of what was seen: what the next ones compute with. Something leaves for it only
        where that was not done when the node started."""
        if self.room_bytes is None:
            return []
        return self._bring_next(view, self.room_bytes, dict(self.held), may_evict=not view.looks_ahead)

    def _bring_next(self, view: View, room_bytes: int, held: dict[str, int], *, may_evict: bool = True) -> list[Instruction]:
        """What the next nodes compute with, in order, as far as there is room or something needed later can leave."""
        instructions: list[Instruction] = []
        room_bytes -= sum(size_bytes for key, size_bytes in self.in_flight.items() if key not in view.running)
        for key, needed_at in _next_uses(view):
            whole_bytes, coming_bytes = view.components[key].size_bytes, held.get(key, 0) + self.in_flight.get(key, 0)
            missing_bytes = min(whole_bytes, whole_bytes if self.in_host is None else self.in_host.get(key, 0)) - coming_bytes
            if missing_bytes <= 0 or key in self.refused or not view.may_prefetch(key):
                continue
            wanted_bytes = int(min(missing_bytes, view.comes_bytes))
            least_bytes = LEAST_SHARE * missing_bytes
            if wanted_bytes < least_bytes:
                break
            if wanted_bytes > room_bytes and may_evict:
                why = f"makes room for {view.components[key].name}"
                evictions = self._evict(wanted_bytes - room_bytes, view, needed_at, why, held, spared=key)
                instructions += evictions
                room_bytes += sum(one.size_bytes for one in evictions)
            size_bytes = min(wanted_bytes, room_bytes)
            if size_bytes < least_bytes:
                break
            self.in_flight[key] = self.in_flight.get(key, 0) + size_bytes
            room_bytes -= size_bytes
            view = replace(view, comes_bytes=view.comes_bytes - size_bytes)
            visit = view.timeline.visits[needed_at]
            reason = f"{visit.class_type} {visit.node_id} computes with it, {_ahead(needed_at - view.position)}"
            instructions.append(Prefetch(view.components[key], Tier.DEVICE, coming_bytes + size_bytes, reason))
            if size_bytes < missing_bytes:
                break
        return instructions

    def victims(self, view: View) -> list[str]:
        """What may leave, best first."""
        return [key for _, key in self._victims(view, self.held)]

    def cancel(self, keys: Iterable[str], view: View, reason: str) -> list[Instruction]:
        """Give up what is on its way; the mover's answer settles it."""
        stopping = [key for key in keys if key in self.in_flight and key in view.components]
        self.cancelled.update(stopping)
        return [Cancel(view.components[key], Tier.DEVICE, reason) for key in stopping]

    def _evict(
        self, short_bytes: int, view: View, needed_after: float, reason: str, held: dict[str, int], *, spared: str = ""
    ) -> list[Evict]:
        """Evictions that give at least `short_bytes` of `held` back, of what is next needed after `needed_after`; fewer where there is
        no more. `held` is told what will be left."""
        evictions: list[Evict] = []
        for next_use, key in self._victims(view, held):
            if short_bytes <= 0:
                break
            if key == spared:
                continue
            # for what comes early only that leaves which is needed later and has a copy: without one it would be read from the drive again
            if needed_after != NEVER and (next_use <= needed_after or not self._has_copy(key)):
                continue
            size_bytes = min(held[key], short_bytes)
            told = "nothing needs it any more" if next_use == NEVER else f"its next use is at visit {next_use:.0f}"
            held[key] -= size_bytes
            evictions.append(Evict(view.components[key], Tier.DEVICE, size_bytes, f"{reason}; {told}", held[key]))
            short_bytes -= size_bytes
        return evictions

    def _has_copy(self, key: str) -> bool:
        return self.in_host is None or self.in_host.get(key, 0) >= self.held.get(key, 0)

    def _victims(self, view: View, held: Mapping[str, int]) -> Iterator[tuple[float, str]]:
        """(next use, component), best victim first: the lowest priority, then the farthest next use, then the smallest."""
        candidates = []
        for key, held_bytes in held.items():
            if held_bytes <= 0 or key in view.running or key in self.in_flight or key not in view.components or not view.may_evict(key):
                continue
            next_at = view.timeline.next_compute_at(key, view.position)
            candidates.append((view.priority(key), -NEVER if next_at is None else -next_at, held_bytes, key))
        candidates.sort()
        return ((-use, key) for _, use, _, key in candidates)


@dataclass(frozen=True, slots=True)
class View:
    """What the device tier may know of the prompt. `running`: components of the node at `position`; `comes_bytes`: what can cross the link
    while it runs; infinite where nobody knows how long it runs, or how fast the link is."""

    timeline: Timeline
    position: int
    components: Mapping[str, Component]
    running: frozenset[str]
    may_prefetch: Callable[[str], bool] = lambda key: True
    may_evict: Callable[[str], bool] = lambda key: True
    priority: Callable[[str], int] = lambda key: 0
    comes_bytes: float = NEVER

    @property
    def looks_ahead(self) -> bool:
        """Whether enough is known of the node to bring over what comes after it from its start on."""
        return self.comes_bytes < NEVER and (not self.running or self.timeline.visits[self.position].working_set_bytes > 0)


def _next_uses(view: View) -> Iterator[tuple[str, int]]:
    """Components in the order in which the next visits compute with them, each once. What usually comes next counts as well: bringing it
    back from host memory costs nothing that anybody waits for."""
    seen = set(view.running)
    visits = 0
    for position in range(view.position + 1, len(view.timeline.visits)):
        uses = [use for use in view.timeline.at(position) if use.kind is UseKind.COMPUTE]
        visits += bool(uses)
        if visits > LOOK_AHEAD:
            return
        for use in uses:
            if use.component not in seen and use.component in view.components:
                seen.add(use.component)
                yield use.component, position


def _ahead(count: int) -> str:
    return "next" if count <= 1 else f"{count} nodes ahead"
