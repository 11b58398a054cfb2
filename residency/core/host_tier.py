"""The host tier: its budget, what is on its way there or leaving, and the instructions that the plan turns into."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from . import host_plan as planning
from .budget import Budget
from .component import Component, Policy, Tier
from .events import Cancel, Evict, HostObserved, Instruction, Prefetch, RatesMeasured
from .eviction_order import Ranking, rank
from .timeline import EMPTY, Timeline
from .view import Move, Terms

# Without rates a component that others would have to leave for comes in so many parts: room is given away no earlier than it must be.
UNKNOWN_PARTS = 16
FINEST_PARTS = 64


@dataclass(slots=True)
class Place:
    """Where the prompt is: `position` has started, or has ended when not `running`; `until_s` is when what runs is expected to end."""

    timeline: Timeline = EMPTY
    position: int = -1
    running: bool = False
    now_s: float = 0.0
    until_s: float | None = None


class HostTier:
    """What the manager knows of the host tier. Every change goes through here, so that the order of leaving stays true."""

    def __init__(self, limit_bytes: int) -> None:
        self.budget = Budget(limit_bytes)
        self.components: dict[str, Component] = {}
        self.place = Place()
        self.rates: RatesMeasured | None = None
        self.terms = Terms(before_free=self._before_free)
        self.refused: set[str] = set()  # stopped by the mover, or given up by the user: not asked for again in this prompt
        self.cancelled: set[str] = set()  # told to stop, not answered yet
        self.leaving: dict[str, int] = {}  # bytes told to leave, not answered yet
        self.given_up: set[str] = set()  # by the user while on their way: what has come by then leaves
        self.asked: dict[str, str] = {}
        self.terms.stopping, self.terms.leaving, self.terms.asked = self.cancelled, self.leaving, self.asked
        self.loaded: dict[str, int] = {}
        self.surplus: dict[str, int] = {}  # page-cache copies of what the process holds for itself
        self.terms.loaded, self.terms.surplus = self.loaded, self.surplus
        self._ranking = Ranking()
        self.changed = True  # since the last plan
        self._waiting: list[Move] = []  # planned prefetches that wait for room
        self._complete_reads = 0

    # --- what happens ---

    def begin(self, place: Place, policies: Mapping[str, Policy] | None = None) -> None:
        """Another order: every rank is new."""
        self.place = place
        if policies is not None:
            self.terms.policies = policies
        self._complete_reads = 0
        self.changed = True
        self._ranking.clear()
        for key in self.budget.held:
            self._rank(key)

    def pass_by(self, keys: Iterable[str]) -> None:
        """A visit that reads these has begun: their next read is a later one."""
        for key in keys:
            if key in self.budget.held:
                self._rank(key)

    def settle(self, key: str, held_bytes: int) -> None:
        """What is there of a component now; its transfer, if any, has ended."""
        used_bytes = self.budget.used_bytes
        self.budget.settle(key, held_bytes)
        if held_bytes > 0:
            self._rank(key)
        else:
            self._ranking.drop(key)
        if key in self.components and held_bytes < self.wanted_bytes(key):
            self._missing_again(key)
            self.changed = True
        elif self.budget.used_bytes != used_bytes:
            self.changed = True

    def observe(self, seen: HostObserved) -> None:
        """The host has looked."""
        for key, loaded_bytes in self.loaded.items():
            if seen.loaded.get(key, 0) < loaded_bytes:
                self._missing_again(key)
        for mine, theirs in ((self.loaded, seen.loaded), (self.surplus, seen.surplus)):
            mine.clear()
            mine.update(theirs)
        self.terms.copies = seen.copies
        self.changed = True
        for key in {*seen.held, *self.budget.held}:
            if key in self.components and key not in self.budget.in_flight and key not in self.leaving:
                held_bytes = min(seen.held.get(key, 0), self.wanted_bytes(key))
                if held_bytes != self.budget.held.get(key, 0):
                    self.settle(key, held_bytes)

    def node_has_read(self, key: str) -> None:
        """A node has read the component itself: it is there, as far as there was room."""
        if key in self.budget.in_flight or key not in self.components or key in self.leaving:
            return
        held_bytes, wanted_bytes = self.budget.held.get(key, 0), self.wanted_bytes(key)
        if held_bytes < wanted_bytes:
            self.settle(key, min(wanted_bytes, held_bytes + max(0, self.budget.available_bytes)))

    def forget(self) -> None:
        """Between prompts the system may drop pages behind our back: what is there is asked again, which costs the mover a probe."""
        for key in list(self.budget.held):
            kept = self.terms.policies.get(key)
            if key not in self.budget.in_flight and not (kept is not None and kept.keep):
                self.settle(key, 0)

    def _left(self, key: str) -> None:
        """The mover has answered an eviction: what it could not give back is no longer ours to count on."""
        gone_bytes = self.leaving.pop(key, None)
        if key not in self.budget.in_flight:
            held_bytes = self.budget.held.get(key, 0)
            self.settle(key, 0 if gone_bytes is None else max(0, held_bytes - gone_bytes))

    def wanted_bytes(self, key: str) -> int:
        """Bytes of the component that the tier has to hold: all that the process does not hold for itself."""
        return max(0, self.components[key].size_bytes - self.loaded.get(key, 0))

    def set_limit(self, limit_bytes: int, reserve_bytes: int) -> None:
        """What the tier may hold; `limit_bytes` may be negative when others have taken of the reserve."""
        self.budget.limit_bytes = max(0, limit_bytes)
        self.terms.reserve_bytes = reserve_bytes + min(0, limit_bytes)
        self.changed = True

    def present_bytes(self, key: str) -> int:
        """Bytes of the component, from its start, that need no drive: what the process holds for itself and what the tier holds."""
        return self.loaded.get(key, 0) + self.budget.held.get(key, 0)

    # --- what follows ---

    def is_planned_for(self, keys: Iterable[str]) -> bool:
        """Whether the last plan holds for a visit that uses these and starts when it was expected to."""
        if self.changed or self.terms.copies:
            return False
        held, in_flight = self.budget.held, self.budget.in_flight
        return all(key not in self.components or held.get(key, 0) + in_flight.get(key, 0) >= self.wanted_bytes(key) for key in keys)

    def replan(self, busy: Collection[str]) -> list[Instruction]:
        """What should move now."""
        place = self.place
        self.changed = False
        self._waiting = []
        if self._complete_reads >= len(place.timeline.reads) and self.budget.available_bytes >= 0 and not (self.surplus or self.asked):
            return []
        order = self._ranking.first_to_leave()
        decided = planning.plan(
            place.timeline,
            place.position,
            self.components,
            self.budget,
            {*busy, *self.leaving} if self.leaving else busy,
            running=place.running,
            terms=self.terms,
            leave_order=order,
            complete_reads=self._complete_reads,
        )
        order.close()
        self._complete_reads = decided.complete_reads
        instructions: list[Instruction] = []
        for move in decided.cancels:
            instructions += self.cancel([move.component], move.reason)
        for move in decided.surplus:
            instructions.append(self._give_surplus(move.component, move.reason))
        for move in decided.evictions:
            instructions.append(self.evict(move.component, move.size_bytes, move.reason))
        self._waiting = list(decided.prefetches)
        return instructions + self._announce()

    def _announce(self) -> list[Instruction]:
        """What was planned and finds its room: the rest of it comes with the movers' answers, or with the next plan."""
        instructions: list[Instruction] = []
        while self._waiting:
            move = self._waiting[0]
            held_bytes = self.budget.held.get(move.component, 0)
            if not self.budget.reserve(move.component, move.size_bytes - held_bytes):
                break
            self._waiting.pop(0)
            start = self.loaded.get(move.component, 0)
            instructions.append(Prefetch(self.components[move.component], Tier.HOST, start + move.size_bytes, move.reason, start))
        return instructions

    def room_came(self, key: str) -> list[Instruction] | None:
        """An eviction was answered. What waited for it, when that is all that has happened since the plan; None: plan anew."""
        as_planned = not self.changed
        self._left(key)
        if not as_planned or not self._waiting or self.leaving:
            return None
        found = self._announce()
        if self._waiting:
            return found or None
        self.changed = False
        return found

    def cancel(self, keys: Iterable[str], reason: str) -> list[Instruction]:
        """Each transfer is told to stop once; it stays in flight, and its bytes reserved, until the mover has answered."""
        stopping = [key for key in keys if key not in self.cancelled]
        self.cancelled.update(stopping)
        return [Cancel(self.components[key], Tier.HOST, reason) for key in stopping]

    def evict(self, key: str, size_bytes: int, reason: str) -> Instruction:
        """Give back the last bytes of what is held of the component."""
        self.leaving[key] = size_bytes
        rest_bytes = self.budget.held.get(key, 0) - size_bytes
        keep_bytes = self.loaded.get(key, 0) + rest_bytes if rest_bytes > 0 else 0
        return Evict(self.components[key], Tier.HOST, size_bytes, reason, keep_bytes)

    def _give_surplus(self, key: str, reason: str) -> Instruction:
        size_bytes = self.surplus.pop(key)
        self.leaving[key] = 0  # nothing that the budget counts
        return Evict(self.components[key], Tier.HOST, size_bytes, reason, 0, self.loaded[key])

    def ask(self, key: str, reason: str) -> None:
        """The user wants it next, and nothing else in its place until this prompt is over."""
        self.asked[key] = reason
        self.changed = True
        self.refused.discard(key)
        if key in self.budget.held:
            self._rank(key)

    def release(self, key: str, reason: str) -> list[Instruction]:
        """The user gives it up: what is there leaves, what is on its way is stopped, and it is not read ahead again in this prompt."""
        self.asked.pop(key, None)
        self.refused.add(key)
        self.changed = True
        if key in self.budget.in_flight:
            self.given_up.add(key)
            return self.cancel([key], reason)
        held_bytes = self.budget.held.get(key, 0)
        if not held_bytes or key in self.leaving:
            return []
        return [self.evict(key, held_bytes, reason)]

    def _rank(self, key: str) -> None:
        found = rank(key, self.place.timeline, self.place.position, self.components, self.terms.policies)
        self._ranking.put(key, found._replace(nearness=1.0) if key in self.asked else found)

    def _missing_again(self, key: str) -> None:
        after = self.place.position - 1 if self.place.running else self.place.position
        number = self.place.timeline.next_read_number(key, after)
        if number is not None and number < self._complete_reads:
            self._complete_reads = number

    def _before_free(self, key: str) -> float:
        """Bytes that the component's drive brings until what runs now has ended; a fixed part of it where that is not known."""
        size_bytes = self.components[key].size_bytes
        rate = None if self.rates is None else self.rates.read.get(key)
        if rate is None or self.place.until_s is None:
            return max(1, size_bytes // UNKNOWN_PARTS)
        return max(rate * (self.place.until_s - self.place.now_s), size_bytes // FINEST_PARTS, 1)
