"""Small builders for tests of the deciding core: a timeline from letters, and a virtual host that answers instructions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from residency.core.component import Component, Mode, Tier
from residency.core.component_state import TierState
from residency.core.events import BudgetChanged, Event, Evicted, NodeFinished, NodeStarted, PromptStarted, TransferDone, TransferStopped
from residency.core.instructions import Cancel, Evict, Instruction, Prefetch
from residency.core.manager import Manager
from residency.core.timeline import Timeline, Use, UseKind, Visit

MB = 10**6


def components(**sizes_mb: int) -> dict[str, Component]:
    """components(a=100, b=50): components named a and b of that many megabytes."""
    return {name: Component(name, name, "MODEL", size * MB) for name, size in sizes_mb.items()}


def reads(order: Iterable[str]) -> Timeline:
    """One visit for each letter; each reads that component ("-" computes without weights)."""
    letters = list(order)
    visits = [Visit("p", str(position), "Node") for position in range(len(letters))]
    return Timeline.of(visits, [Use(i, c, UseKind.COMPUTE, True) for i, c in enumerate(letters) if c != "-"])


def tier(limit_mb: int, held_mb: Mapping[str, int] | None = None, coming_mb: Mapping[str, int] | None = None) -> TierState:
    """A host tier on which those megabytes are, and are on their way."""
    state = TierState(Tier.HOST, limit_mb * MB)
    for key, size_mb in (held_mb or {}).items():
        state.seen(key, size_mb * MB, "a test")
    for key, size_mb in (coming_mb or {}).items():
        state.announce(key, size_mb * MB, "a test")
    return state


class VirtualHost:
    """Enacts what the manager asks, when the test says so. `flight` holds the announced transfers in order."""

    def __init__(
        self, timeline: Timeline, parts: Mapping[str, Component], limit_mb: int, mode: Mode = Mode.BALANCED, *, hard_disk: bool = False
    ) -> None:
        self.manager = Manager(host_limit_bytes=limit_mb * MB)
        self.time_s = 0.0
        self.flight: list[Prefetch] = []
        self.present: dict[str, int] = {}
        self.log: list[Instruction] = []
        self.moved_bytes = 0
        self.give(PromptStarted(0.0, "p", timeline, parts, mode, single_reader=frozenset(parts) if hard_disk else frozenset()))

    def give(self, event: Event) -> list[Instruction]:
        """Hand the event over; evictions and cancels are enacted at once, prefetches wait in `flight`."""
        instructions = self.manager.handle(event)
        self.log += instructions
        for instruction in instructions:
            key = instruction.component.key
            if isinstance(instruction, Prefetch):
                self.flight.append(instruction)
            elif isinstance(instruction, Evict):
                freed = 0
                if instruction.tier is Tier.HOST:
                    freed = max(0, self.present.get(key, 0) - instruction.keep_bytes)
                    self.present[key] = self.present.get(key, 0) - freed
                    self.present = {key: size for key, size in self.present.items() if size}
                self.give(Evicted(self.time_s, key, instruction.tier, freed, instruction.reason))
            elif isinstance(instruction, Cancel):
                self.flight = [prefetch for prefetch in self.flight if prefetch.component.key != key]
                self.give(TransferStopped(self.time_s, key, Tier.HOST, 0, self.present.get(key, 0), 0.0, instruction.reason))
        return instructions

    def land(self, index: int = 0) -> str:
        """The transfer at `index` of `flight` arrives."""
        prefetch = self.flight.pop(index)
        key = prefetch.component.key
        moved = max(0, prefetch.size_bytes - self.present.get(key, 0))
        self.present[key] = self.present.get(key, 0) + moved
        self.moved_bytes += moved
        self.give(TransferDone(self.time_s, key, Tier.HOST, moved, self.present[key], 1.0))
        return key

    def start(self, position: int) -> list[Instruction]:
        return self.give(NodeStarted(self.time_s, position))

    def finish(self, position: int) -> list[Instruction]:
        return self.give(NodeFinished(self.time_s, position))

    def limit(self, limit_mb: int) -> list[Instruction]:
        return self.give(BudgetChanged(self.time_s, Tier.HOST, limit_mb * MB))
