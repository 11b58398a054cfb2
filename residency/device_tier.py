"""The device tier: what the next nodes compute with comes to the device while a node computes, as far as there is room.

Nothing that runs, and nothing that is needed sooner, gives way for it. A part is the component's beginning: its first layers are needed
first. Only what the host tier holds can come; only a host whose mover can do it asks for it at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from .budget import Budget
from .component import Component, Tier
from .events import Cancel, Evict, Instruction, Prefetch
from .ranking import NEVER
from .timeline import Timeline, UseKind

LOOK_AHEAD = 64  # visits: what lies behind them has time


class DeviceTier:
    """What the manager knows of the device. `in_host(key)`: bytes of a component, from its start, that the host tier holds by now."""

    def __init__(self, limit_bytes: int | None, in_host: Callable[[str], int], *, enabled: bool) -> None:
        self.budget = Budget(max(0, limit_bytes or 0))
        self.enabled = enabled
        self.refused = False  # the mover has refused in this prompt: it is not asked again
        self._in_host = in_host
        self._cancelled: set[str] = set()
        self._leaving: dict[str, int] = {}

    def observe(self, held: Mapping[str, int]) -> None:
        """The host has looked."""
        for key in {*held, *self.budget.held}:
            if key not in self.budget.in_flight and key not in self._leaving:
                self.budget.settle(key, held.get(key, 0))

    def transfer_ended(self, key: str, present_bytes: int, *, stopped: bool) -> None:
        """The mover has answered; a refusal holds for the rest of the prompt."""
        if stopped and key not in self._cancelled:
            self.refused = True
        self._cancelled.discard(key)
        self.budget.settle(key, present_bytes)

    def left(self, key: str) -> None:
        """The mover has answered an eviction."""
        gone_bytes = self._leaving.pop(key, None)
        if key not in self.budget.in_flight:
            self.budget.settle(key, 0 if gone_bytes is None else max(0, self.budget.held.get(key, 0) - gone_bytes))

    def cancel(self, keys: Iterable[str], components: Mapping[str, Component], reason: str) -> list[Instruction]:
        """Stop transfers; what they have brought by then stays."""
        stopping = [key for key in keys if key in self.budget.in_flight and key not in self._cancelled]
        self._cancelled.update(stopping)
        return [Cancel(components[key], Tier.DEVICE, reason) for key in stopping]

    def replan(
        self,
        timeline: Timeline,
        position: int,
        components: Mapping[str, Component],
        running: Collection[str],
        *,
        may_evict: bool = True,
        comes_bytes: float = NEVER,
        may_prefetch: Callable[[str], bool] = lambda key: True,
    ) -> list[Instruction]:
        """What should come while the visit at `position` computes; nothing where it is not known what that visit itself needs.

        `comes_bytes`: what can cross before that visit has ended; no more than that has to leave.
        """
        working_set_bytes = timeline.visits[position].working_set_bytes if 0 <= position < len(timeline.visits) else 0
        if not self.enabled or self.refused or not running or working_set_bytes <= 0 or self._leaving:
            return []
        held, in_flight = self.budget.held, self.budget.in_flight
        own_bytes = sum(max(0, components[key].size_bytes - held.get(key, 0)) for key in running if key in components)
        free = self.budget.available_bytes - working_set_bytes - own_bytes
        evictions: list[Instruction] = []
        prefetches: list[Instruction] = []
        seen = set(running)
        for at in range(position + 1, min(position + 1 + LOOK_AHEAD, len(timeline.visits))):
            for use in timeline.at(at):
                key = use.component
                if use.kind is not UseKind.COMPUTE or key in seen or key not in components:
                    continue
                seen.add(key)
                if key in in_flight or not may_prefetch(key):
                    continue
                whole_bytes = components[key].size_bytes
                missing = min(whole_bytes, self._in_host(key)) - held.get(key, 0)
                wanted = int(min(missing, comes_bytes))
                if wanted > free and may_evict:
                    for victim, size in self._room(timeline, position, at, wanted - free, components, running):
                        evictions.append(
                            self._evict(components[victim], size, f"makes room for {components[key].name}, which is used sooner")
                        )
                        free += size
                size = min(missing, free)
                if size > 0:
                    visit = timeline.visits[at]
                    target_bytes = held.get(key, 0) + size
                    reason = f"used by {visit.class_type} {visit.node_id}, {at - position} nodes ahead"
                    prefetches.append(Prefetch(components[key], Tier.DEVICE, target_bytes, reason, 0))
                    free -= size
                    comes_bytes -= size
                if held.get(key, 0) + max(0, size) < whole_bytes:
                    return self._announce(evictions, prefetches)
        return self._announce(evictions, prefetches)

    def _announce(self, evictions: list[Instruction], prefetches: list[Instruction]) -> list[Instruction]:
        if evictions:
            return evictions  # the room is there once the mover says so
        announced: list[Instruction] = []
        for prefetch in prefetches:
            key = prefetch.component.key
            if isinstance(prefetch, Prefetch) and self.budget.reserve(key, prefetch.size_bytes - self.budget.held.get(key, 0)):
                announced.append(prefetch)
        return announced

    def _room(
        self, timeline: Timeline, position: int, at: int, wanted: int, components: Mapping[str, Component], running: Collection[str]
    ) -> list[tuple[str, int]]:
        """Bytes of components that are used later than `at`, the farthest first.

        Only of those whose copy is in the host tier: leaving must not mean reading from the drive again. (Without this rule one workflow
        of the corpus took 4.6 % longer on a hard disk and 16 GB of RAM.)
        """
        found = []
        for key, held_bytes in self.budget.held.items():
            if key not in components or key in running or key in self.budget.in_flight or self._in_host(key) < held_bytes:
                continue
            use = timeline.next_use(key, position)
            next_at = NEVER if use is None else use.position
            if next_at > at:
                found.append((-next_at, key, held_bytes))
        taken = []
        for _, key, held_bytes in sorted(found):
            if wanted <= 0:
                break
            taken.append((key, min(held_bytes, wanted)))
            wanted -= taken[-1][1]
        return taken

    def _evict(self, component: Component, size_bytes: int, reason: str) -> Instruction:
        self._leaving[component.key] = size_bytes
        return Evict(component, Tier.DEVICE, size_bytes, reason, self.budget.held[component.key] - size_bytes)
