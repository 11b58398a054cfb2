"""The bytes that should move now: a pure function of the timeline, the components and the contents of the host tier.

Byte by byte, in order of next read: read the missing bytes; make room by giving back the last bytes of the component read farthest in the
future, or never again, and only while that is later than the read that the room is for; so a prefix stays. On random instances that are
small enough to search this is the optimum (benchmarks/optimality.py). Cao, Felten, Karlin, Li, "A study of integrated prefetching and
caching strategies", 1995 (the four rules); Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from heapq import merge

from ..units import size as in_words
from .component import Component
from .component_state import MAY_COME, ComponentState, State
from .eviction_order import NEVER, Rank, rank
from .timeline import Timeline
from .view import Move, Plan, Terms, TierView

NO_TERMS = Terms()

# Where the tier holds more than its limit, as much more must leave for the bytes that come: at most this part of them.
MOST_LOST = 4

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
    if by_order_alone and _room(host) == 0:  # the usual case where weights do not fit
        first, missing_at = _first_missing(timeline, first, components, host)
        if missing_at is not None and stays(leave_order, busy, missing_at):
            return Plan([], [], [], [], first, missing_at)
    draft = _Draft(timeline, position, components, host, busy, terms, leave_order, running=running)
    if draft.free < 0 or terms.reserve_bytes < 0:
        draft.give_back_what_is_over()
    complete = draft.fill(first, position if running else None)
    if complete >= len(timeline.reads):
        draft.fill_with_expected()
    if not by_order_alone and len(draft.prefetches) > 1:
        draft.prefetches.sort(key=_read_at)
    evictions = [Move(key, size, reason) for key, (size, reason) in draft.evictions.items()]
    prefetches = [move for _, move in draft.prefetches]
    copies = [*draft.surplus, *(Move(key, size, reason) for key, (size, reason) in draft.copies.items())]
    return Plan(draft.cancels, copies, evictions, prefetches, complete, draft.whole_until if by_order_alone else None)


def _room(host: TierView) -> int:
    """Bytes that are neither used nor about to be, with all that stops or leaves gone."""
    budget = host.budget
    return budget.limit_bytes - budget.used_bytes + host.leaving_bytes + host.stopping_bytes


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


def stays(leave_order: Sequence[Rank], busy: Collection[str], read_at: int) -> bool:
    """Whether all of the tier is read no later than that: the first of those that may leave says it of them all."""
    for found in leave_order:
        if found.key not in busy:
            return not found.yields_to(0, read_at)
    return True


class _Draft:
    """The plan while it is made: `free` bytes are neither used nor given away yet."""

    __slots__ = (
        "_brought", "_busy_rank", "_drive_is_taken", "_leave_order", "_left", "_passing", "_surplus", "_takes_copy", "_victim",
        "busy", "cancels", "components", "copies", "evictions", "free", "host", "position",
        "prefetches", "records", "running", "surplus", "terms", "timeline", "whole_until",
    )  # fmt: skip

    def __init__(
        self,
        timeline: Timeline,
        position: int,
        components: Mapping[str, Component],
        host: TierView,
        busy: Collection[str],
        terms: Terms,
        leave_order: Sequence[Rank],
        *,
        running: bool,
    ) -> None:
        self.running = running
        self.timeline, self.position, self.components, self.host, self.busy, self.terms = timeline, position, components, host, busy, terms
        self.records = host.records
        self._busy_rank: Rank | None = None  # of the one in use that will be worth least when its node has ended
        self._surplus: dict[str, int] = {}
        self._passing: dict[str, int] = {}  # second copies that will be the only ones
        self._drive_is_taken = False  # a node reads its own rest from a drive that serves one reader
        self.free = _room(host)
        if host.surplus:
            self._surplus = {key: record.surplus_bytes for key, record in host.surplus.items()}
            self.free -= sum(self._surplus.values())
            self._passing = {key: self._surplus.pop(key) for key in terms.passing if key in self._surplus}
        self.cancels: list[Move] = []
        self.surplus: list[Move] = []
        self.evictions: dict[str, tuple[int, str]] = {}
        self.copies: dict[str, tuple[int, str]] = {}  # of components that pass, told to leave
        self._brought: set[str] = set()  # nothing leaves of these, which are to come
        self.prefetches: list[tuple[int, Move]] = []
        self.whole_until: int | None = None
        passing = sorted(rank(key, timeline, position, components, terms.policies) for key in self._passing)
        self._leave_order = merge(passing, leave_order) if passing else iter(leave_order)
        self._victim: Rank | None = None
        self._left = -1  # bytes of the victim that have not been taken; -1: nobody has been looked for
        self._takes_copy = False  # the victim is the second copy of a component that passes

    def _next_victim(self) -> None:
        busy, brought, passing = self.busy, self._brought, self._passing
        for found in self._leave_order:
            key = found.key
            if passing and (copy_bytes := passing.pop(key, 0)):
                record = self.records[key]
                if not (record.coming_bytes or record.answers_due):
                    self._victim, self._left, self._takes_copy = found, copy_bytes, True
                    return
            record = NOTHING if key in busy or key in brought else self.records.get(key, NOTHING)
            if record.held_bytes and not record.coming_bytes and key in self.components:
                self._victim, self._left, self._takes_copy = found, record.held_bytes, False
                return
        self._victim, self._left = None, 0

    def _take(self, victim: Rank, size_bytes: int, reason: str) -> None:
        """Give back that many of the victim's bytes."""
        key, told = victim.key, self.copies if self._takes_copy else self.evictions
        taken = told.get(key)
        if taken is None:
            told[key] = (size_bytes, f"{reason}; {_describe(victim)}")
        else:
            told[key] = (taken[0] + size_bytes, taken[1])
        self.free += size_bytes
        self._left -= size_bytes
        if not self._left:
            self._next_victim()

    def _drop_surplus(self, wanted: int) -> None:
        """Second copies go before anything else does: giving them back costs nothing."""
        while self._surplus and self.free < wanted:
            key, size = self._surplus.popitem()
            record = self.records[key]
            if not (record.coming_bytes or record.answers_due) and key in self.components:
                self.surplus.append(Move(key, size, "the process holds these bytes for itself"))
            self.free += size

    def give_back_what_is_over(self) -> None:
        """The limit has shrunk: the component read farthest goes, be it there or on its way."""
        self._drop_surplus(0)
        if self.free >= -self.terms.reserve_bytes:
            return
        self.free += self.terms.reserve_bytes
        self._next_victim()
        terms = self.terms
        flights = sorted(
            rank(key, self.timeline, self.position, self.components, terms.policies)
            for key, record in self.host.coming.items()
            if record.state is State.ANNOUNCED and key not in self.busy
        )
        while self.free < 0 and (flights or self._victim):
            reason = f"memory is short: {in_words(-self.free)} over the limit"
            victim = self._victim
            if victim is None or (flights and flights[0] < victim):
                found = flights.pop(0)
                key = found.key
                coming_bytes = self.records[key].coming_bytes
                self.cancels.append(Move(key, coming_bytes, f"{reason}; {_describe(found)}"))
                self.free += coming_bytes
            else:
                self._take(victim, min(self._left, -self.free), reason)
        self.free -= terms.reserve_bytes

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
        self._make_room(missing, key, at, is_read_now=True)
        self.free -= min(missing, max(0, self.free))
        self._drive_is_taken |= key in self.terms.alone

    def fill_with_expected(self) -> None:
        """Nothing that was asked for is missing. Of components that usually come next, the rest of those that the process holds in part:
        bytes that the end of this prompt has pushed out are back before the next one begins."""
        for use in self.timeline.expected_reads:
            record = self.records.get(use.component, NOTHING)
            if record.loaded_bytes and use.component in self.components and self._may_come(use.component):
                reason = f"{self.timeline.visits[use.position].class_type} is expected to read it again"
                missing = self.components[use.component].size_bytes - record.held_bytes - record.loaded_bytes
                if missing <= 0 or record.coming_bytes or use.component in self._brought:
                    continue
                if not self._bring(use.component, record, missing, use.position, reason):
                    return

    def _leave_room_for_copies(self, running: int | None, at: int) -> None:
        """The node that runs will hold for itself all it reads. One that comes reads its components one after the other: while
        the last is read, those before it are there twice."""
        if running is not None:
            self.free -= sum(self._copied_bytes(running))
        sizes = self._copied_bytes(at)
        if len(sizes) > 1:
            self.free -= sum(sizes) - max(sizes)

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
        if key in self.evictions:
            return False  # its rest comes first when it has left
        held_bytes, ahead = record.held_bytes, at - self.position
        least = 1
        if self.terms.passes:  # bytes fetched meanwhile leave, announced ones are counted until they have landed
            is_used = self.running and not ahead
            least = min(missing, WINDOW_BYTES // LEAST_WINDOW) if is_used else 1
            missing = min(missing, max(0, WINDOW_BYTES - held_bytes) if is_used else WINDOW_BYTES)
        if missing > self.free:
            self._make_room(missing, key, at, is_read_now=ahead <= 0)
        free = self.free
        size = min(free, missing)
        if size < least:
            return False
        if reason is None:
            visit = self.timeline.visits[at]
            reason = f"read by {visit.class_type} {visit.node_id}, {_nodes_ahead(ahead)}"
        if size < missing:
            reason += f"; {in_words(missing - size)} of it do not fit the budget"
        self.prefetches.append((at, Move(key, held_bytes + size, reason)))
        self.free = free - size
        self._brought.add(key)
        if self._victim is not None and self._victim.key == key and not self._takes_copy:
            self._next_victim()
        return size == missing

    def _make_room(self, wanted: int, key: str, at: int, *, is_read_now: bool) -> None:
        """Give back the last bytes of those that may leave for this component, which is read at `at`."""
        if self._surplus:
            self._drop_surplus(wanted)
        if self._left < 0:
            self._next_victim()
        found = self._victim
        if found is None:
            return
        policy = self.terms.policies.get(key)
        priority = 0 if policy is None else policy.priority
        patience: float | None = None
        free = self.free
        if free < 0 and not (self._takes_copy and self._is_behind(key)) and free + self._unneeded_bytes() < 0:
            return  # nothing could come into the room
        while found is not None and wanted > free:
            behind = self._takes_copy and self._is_behind(key)
            if (found.key == key and not behind) or not found.yields_to(priority, at):
                return
            if behind and wanted - free <= self.terms.reserve_bytes:
                return  # the rest finds room where others may want some
            never = found.nearness == -NEVER
            if free < 0 and not (never or behind) and -free > wanted // MOST_LOST:
                return  # too much would have to be read again beside the bytes that make the room
            size = min(self._left, wanted - free)
            if not (is_read_now or never or key in self.busy) and self._better_victim_is_busy(found):
                # it is read again, and one in use would rather leave: take only as much as the drive can bring by then
                if patience is None:
                    patience = self.terms.before_free(key) - self._queued_bytes() - max(0, free)
                size = int(min(size, patience))
                if size <= 0:
                    return
                patience -= size
            self._take(found, size, f"makes room for {self.components[key].name}")
            found, free = self._victim, self.free

    def _is_behind(self, key: str) -> bool:
        """Whether the victim, a second copy, is what the running node has gone through of the component that comes: in a loop the last
        bytes leave first (Belady 1966), or all would be pushed out by their own rest before they are used again."""
        return self._victim is not None and self._victim.key == key

    def _unneeded_bytes(self) -> int:
        """Bytes that could leave and that nothing reads any more."""
        held = (record for key, record in self.records.items() if record.held_bytes and not record.coming_bytes and key not in self.busy)
        return sum(
            record.held_bytes - self.evictions.get(record.key, (0, ""))[0]
            for record in held
            if record.key in self.components and self.timeline.missed_at(record.key, self.position) is None
        )

    def _queued_bytes(self) -> int:
        """Bytes that the drives bring first, and for others than the node that runs: it is not done before it has its own."""
        records, busy = self.records, self.busy
        queued_bytes = 0
        for key, record in self.host.coming.items():
            if key not in busy:
                queued_bytes += record.coming_bytes
        for _, move in self.prefetches:
            if move.component not in busy:
                queued_bytes += move.size_bytes - records.get(move.component, NOTHING).held_bytes
        return queued_bytes

    def _better_victim_is_busy(self, found: Rank) -> bool:
        """Whether something in use will be worth less than the victim once its node has ended."""
        if self._busy_rank is None:
            ends_at = self.position if self.running else self.position + 1
            least = WORTH_MOST
            for key in self.busy:
                record = self.records.get(key, NOTHING)
                if record.held_bytes or record.coming_bytes:
                    least = min(least, rank(key, self.timeline, ends_at, self.components, self.terms.policies))
            self._busy_rank = least
        return self._busy_rank[:-1] < found[:-1]


NOTHING = ComponentState("")  # of a component that the tier has never heard of


def _read_at(found: tuple[int, Move]) -> int:
    return found[0]


WORTH_MOST = Rank(True, 0, 1, 0, "")


def _describe(found: Rank) -> str:
    return "nothing reads it any more" if found.nearness == -NEVER else f"its next read is at visit {-found.nearness}"


def _nodes_ahead(count: int) -> str:
    return "now" if count <= 0 else "next" if count == 1 else f"{count} nodes ahead"
