"""The bytes that should move now: a pure function of the timeline, the components and the contents of the host tier.

Byte by byte, in order of next read: read the missing bytes; make room by giving back the last bytes of the component read farthest in the
future, or never again, and only while that is later than the read that the room is for; so a prefix stays. On random instances that are
small enough to search this is the optimum (benchmarks/optimality.py). Cao, Felten, Karlin, Li, "A study of integrated prefetching and
caching strategies", 1995 (the four rules); Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..units import size as in_words
from .component import Component
from .component_state import ComponentState
from .eviction_order import NEVER, Rank, rank
from .host_room import Room, free_bytes
from .moves import MAY_COME
from .timeline import Timeline, UseKind
from .view import NOTHING, Move, Plan, Terms, TierView

NO_TERMS = Terms()

# Of weights that pass through the page cache while their node runs, read ahead of the node: seconds of a drive, and little that would
# have to leave. While the node reads, no less than that part of it is begun: weights that it comes upon half read it reads again.
WINDOW_BYTES = 6 * 2**30
LEAST_WINDOW = 2


def plan(
    timeline: Timeline,
    position: int,
    components: Mapping[str, Component],
    host: TierView,
    busy: Collection[str] = frozenset(),
    *,
    running: bool = False,
    terms: Terms = NO_TERMS,
    leave_order: Sequence[Rank] | None = None,
    complete_reads: int = 0,
) -> Plan:
    """Plan the host tier at `position`: the visit that runs now (`running`), or the last one that has; -1 before the first.

    `busy` components are in use and may not be evicted, nor may those in flight. The bytes of the result, with those held and in flight,
    never exceed the limit; when the limit has shrunk under that, cancels and evictions give back as much as they may, farthest first.
    `leave_order` (a Ranking's) and `complete_reads` (of the plan before) save work and change nothing.
    """
    if leave_order is None:
        held = [key for key, record in host.records.items() if record.held_bytes]
        leave_order = sorted(rank(key, timeline, position, components, terms.policies) for key in held)
    first = max(complete_reads, timeline.first_read_number(position if running else position + 1))
    by_order_alone = not (terms.policies or host.asked or host.surplus) and terms.reserve_bytes >= 0
    if by_order_alone and free_bytes(host) == 0:  # the usual case where weights do not fit
        first, missing_at = _first_missing(timeline, first, components, host)
        if missing_at is not None and stays(leave_order, busy, missing_at):
            return Plan([], [], [], [], first, missing_at)
    room = Room(timeline, position, components, host, busy, terms, leave_order, running=running)
    if room.free < 0 or terms.reserve_bytes < 0:
        room.give_back_what_is_over()
    draft = _Draft(room)
    complete = draft.fill(first, position if running else None)
    if complete >= len(timeline.reads):
        draft.fill_with_expected()
    if not by_order_alone and len(draft.prefetches) > 1:
        draft.prefetches.sort(key=_read_at)
    evictions = [Move(key, size, reason) for key, (size, reason) in room.evictions.items()]
    prefetches = [move for _, move in draft.prefetches]
    copies = [*room.surplus, *(Move(key, size, reason) for key, (size, reason) in room.copies.items())]
    return Plan(room.cancels, copies, evictions, prefetches, complete, draft.whole_until if by_order_alone else None)


def _first_missing(timeline: Timeline, first: int, components: Mapping[str, Component], host: TierView) -> tuple[int, int | None]:
    """From that number of the reads on: how many are complete, and the position of the next one; None: no other is missing."""
    reads, records = timeline.reads, host.records
    for number in range(first, len(reads)):
        key = reads[number].component
        component = components.get(key)
        if component is None:
            continue
        record = records.get(key, NOTHING)
        if record.held_bytes + record.loaded_bytes + record.coming_bytes < component.size_bytes:
            return number, reads[number].position
    return len(reads), None


def overtaken(timeline: Timeline, position: int, components: Mapping[str, Component], host: TierView, terms: Terms) -> list[str]:
    """Components on their way that are read later than one that is missing and not on its way; none that the user has chosen."""
    for use in timeline.reads[timeline.first_read_number(position + 1) :]:
        record = host.records.get(use.component, NOTHING)
        size_bytes = 0 if use.component not in components else components[use.component].size_bytes
        missing = record.held_bytes + record.loaded_bytes + record.coming_bytes < size_bytes
        if missing and not record.coming_bytes and record.may_come and terms.may_prefetch(use.component):
            break
    else:
        return []
    chosen = {key for key, policy in terms.policies.items() if policy.priority} | set(host.asked)
    reads = ((key, timeline.next_read(key, position)) for key in host.coming if key not in chosen)
    return [key for key, read in reads if read is not None and read.position > use.position]


def stays(leave_order: Sequence[Rank], busy: Collection[str], read_at: int) -> bool:
    """Whether all of the tier is read no later than that: the first of those that may leave says it of them all."""
    for found in leave_order:
        if found.key not in busy:
            return not found.yields_to(0, read_at)
    return True


class _Draft:
    """The plan while it is made: the prefetches, for which the room gives bytes."""

    __slots__ = (
        "_drive_is_taken", "components", "host", "position", "prefetches", "records", "room", "running", "terms", "timeline", "whole_until",
    )  # fmt: skip

    def __init__(self, room: Room) -> None:
        self.room = room
        self.timeline, self.position, self.running = room.timeline, room.position, room.running
        self.components, self.host, self.records, self.terms = room.components, room.host, room.records, room.terms
        self._drive_is_taken = False  # a node reads its own rest from a drive that serves one reader
        self.prefetches: list[tuple[int, Move]] = []
        self.whole_until: int | None = None

    def fill(self, first: int, running: int | None) -> int:
        """Give the room away in order of next read, from that number of the reads on. Returns how many of the reads are complete."""
        reads, record_of, components, terms = self.timeline.reads, self.records.get, self.components, self.terms
        done: set[str] = set()
        copies, left_to_node = terms.copies, False
        if self.host.asked or terms.policies:
            for key, at, reason, priority in self._ahead_of_order():
                if running is not None and priority < NEVER:
                    left_to_node |= self._leave_to_running(running, priority, done)
                record = record_of(key, NOTHING)
                missing = components[key].size_bytes - record.held_bytes - record.loaded_bytes
                if missing > 0 and not record.coming_bytes and not self._bring(key, record, missing, at, reason):
                    return first
                done.add(key)
        complete, visit_at, passed_over = -1, running, False
        for number in range(first, len(reads)):
            use = reads[number]
            key = use.component
            if copies and use.position != visit_at:
                self._leave_room_for_copies(visit_at if visit_at == running else None, use.position)
                visit_at = use.position
            component = None if key in done else components.get(key)
            if component is None:
                continue
            done.add(key)
            record = record_of(key, NOTHING)
            missing = component.size_bytes - record.held_bytes - record.loaded_bytes - record.coming_bytes
            if missing <= 0:
                continue
            at = use.position
            may_prefetch = record.state in MAY_COME and not record.answers_due and terms.may_prefetch(key)
            if complete < 0 and (may_prefetch or at == running):
                complete = number
            if at == running and (key in terms.alone or not may_prefetch):
                passed_over = True
                self._leave_to_node(key, missing, at)
                continue
            if not may_prefetch or (self._drive_is_taken and key in terms.alone):
                passed_over = True
                continue
            # the rest of a component on its way comes first when it has landed
            if record.coming_bytes or not self._bring(key, record, missing, at, None):
                self.whole_until = None if passed_over or terms.passes else at  # windows are parts of the missing bytes
                break
        else:
            if not left_to_node:
                return len(reads) if complete < 0 else complete
        return first if left_to_node else max(complete, first)

    def _leave_to_running(self, running: int, priority: float, done: set[str]) -> bool:
        """Room for the reads of the running node itself, before anything without a higher priority: else that would take the room, leave
        again for them, and take it again. Adds their components to `done`; returns whether there are any."""
        found = False
        for use in self.timeline.at(running):
            key = use.component
            if not use.reads or key in done or key not in self.components or (self._may_come(key) and key not in self.terms.alone):
                continue
            record, policy = self.records.get(key, NOTHING), self.terms.policies.get(key)
            missing = self.components[key].size_bytes - record.held_bytes - record.loaded_bytes - record.coming_bytes
            if missing > 0 and priority <= (0 if policy is None else policy.priority):
                done.add(key)
                found = True
                self._leave_to_node(key, missing, running)
        return found

    def _leave_to_node(self, key: str, missing: int, at: int) -> None:
        """The node that runs reads the rest itself: its room is made, or the kernel would choose who leaves."""
        self.room.make(missing, key, at, is_read_now=True)
        self.room.free -= min(missing, max(0, self.room.free))
        self._drive_is_taken |= key in self.terms.alone

    def fill_with_expected(self) -> None:
        """Nothing that was asked for is missing. Components that usually come next: bytes that the end of this prompt has pushed out are
        back before the next one begins. A loader that reads a whole file will hardly run again: ComfyUI caches results."""
        for use in self.timeline.expected_reads:
            record = self.records.get(use.component, NOTHING)
            is_read = record.loaded_bytes or use.kind is UseKind.COMPUTE
            if is_read and use.component in self.components and self._may_come(use.component):
                reason = f"{self.timeline.visits[use.position].class_type} is expected to read it again"
                missing = self.components[use.component].size_bytes - record.held_bytes - record.loaded_bytes
                if missing <= 0 or record.coming_bytes or self.room.is_given(use.component):
                    continue
                if not self._bring(use.component, record, missing, use.position, reason):
                    return

    def _leave_room_for_copies(self, running: int | None, at: int) -> None:
        """The node that runs will hold for itself all it reads. One that comes reads its components one after the other: while
        the last is read, those before it are there twice."""
        if running is not None:
            self.room.free -= sum(self._copied_bytes(running))
        sizes = self._copied_bytes(at)
        if len(sizes) > 1:
            self.room.free -= sum(sizes) - max(sizes)

    def _copied_bytes(self, at: int) -> list[int]:
        keys = [use.component for use in self.timeline.at(at) if use.reads and use.component in self.components]
        return [self.components[key].size_bytes - self.records.get(key, NOTHING).loaded_bytes for key in keys]

    def _ahead_of_order(self) -> list[tuple[str, int, str, float]]:
        """Components that the user has asked for, then those with a priority: (key, position of the read, reason, priority)."""
        terms, asked = self.terms, self.host.asked
        found: list[tuple[str, int, str, float]] = [(key, self.position, record.asked or "", NEVER) for key, record in asked.items()]
        urgent = [(key, policy.priority) for key, policy in terms.policies.items() if policy.priority > 0 and key not in asked]
        reads = [(-priority, use.position, key) for key, priority in urgent if (use := self.timeline.next_read(key, self.position))]
        for priority, at, key in sorted(reads):
            found.append((key, at, f"priority {-priority}, {_nodes_ahead(at - self.position)}", -priority))
        return [one for one in found if one[0] in self.components and self._may_come(one[0])]

    def _may_come(self, key: str) -> bool:
        return self.records.get(key, NOTHING).may_come and self.terms.may_prefetch(key)

    def _bring(self, key: str, record: ComponentState, missing: int, at: int, reason: str | None) -> bool:
        """Announce the missing bytes of the component, of which nothing is on its way, as far as room can be made. False: nothing behind it
        may be announced."""
        room = self.room
        if key in room.evictions:
            return False  # its rest comes first when it has left
        held_bytes, ahead = record.held_bytes, at - self.position
        least = 1
        if self.terms.passes:  # bytes fetched meanwhile leave, announced ones are counted until they have landed
            is_used = self.running and not ahead
            least = min(missing, WINDOW_BYTES // LEAST_WINDOW) if is_used else 1
            missing = min(missing, max(0, WINDOW_BYTES - held_bytes) if is_used else WINDOW_BYTES)
        if missing > room.free:
            room.make(missing, key, at, is_read_now=ahead <= 0)
        size = min(room.free, missing)
        if size < least:
            return False
        if reason is None:
            visit = self.timeline.visits[at]
            reason = f"read by {visit.class_type} {visit.node_id}, {_nodes_ahead(ahead)}"
        if size < missing:
            reason += f"; {in_words(missing - size)} of it do not fit the budget"
        self.prefetches.append((at, Move(key, held_bytes + size, reason)))
        room.give(key, size)
        return size == missing


def _read_at(found: tuple[int, Move]) -> int:
    return found[0]


def _nodes_ahead(count: int) -> str:
    return "now" if count <= 0 else "next" if count == 1 else f"{count} nodes ahead"
