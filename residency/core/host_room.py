"""The room that a plan of the host tier makes: which components leave for the bytes that come, and how much of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import merge

from ..units import size as in_words
from .component import Component
from .eviction_order import NEVER, Rank, rank
from .moves import State
from .timeline import Timeline
from .view import NOTHING, Move, Terms, TierView

# Where the tier holds more than its limit, as much more must leave for the bytes that come: at most this part of them.
MOST_LOST = 4

WORTH_MOST = Rank(True, 0, 1, 0, "")


def free_bytes(host: TierView) -> int:
    """Bytes that are neither used nor about to be, with all that stops or leaves gone."""
    budget = host.budget
    return budget.limit_bytes - budget.used_bytes + host.leaving_bytes + host.stopping_bytes


class Room:
    """The free bytes of a plan, neither used nor given away yet, and the moves that make more of them: `cancels`, `surplus`, `evictions`
    and `copies`. The terms of the plan, `components` to `timeline`, are for whoever gives the bytes away, too."""

    __slots__ = (
        "_busy", "_busy_rank", "_given", "_leave_order", "_left", "_passing", "_surplus", "_takes_copy", "_victim", "cancels", "components",
        "copies", "evictions", "free", "host", "position", "records", "running", "surplus", "terms", "timeline",
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
        self.timeline, self.position, self.running = timeline, position, running
        self.components, self.host, self.records, self._busy, self.terms = components, host, host.records, busy, terms
        self._busy_rank: Rank | None = None  # of the one in use that will be worth least when its node has ended
        self._surplus: dict[str, int] = {}
        self._passing: dict[str, int] = {}  # second copies that will be the only ones
        self.free = free_bytes(host)
        if host.surplus:
            self._surplus = {key: record.surplus_bytes for key, record in host.surplus.items()}
            self.free -= sum(self._surplus.values())
            self._passing = {key: self._surplus.pop(key) for key in terms.passing if key in self._surplus}
        self.cancels: list[Move] = []
        self.surplus: list[Move] = []
        self.evictions: dict[str, tuple[int, str]] = {}
        self.copies: dict[str, tuple[int, str]] = {}  # of components that pass, told to leave
        self._given: dict[str, int] = {}  # bytes that are to come: nothing leaves of their components
        passing = sorted(rank(key, timeline, position, components, terms.policies) for key in self._passing)
        self._leave_order: Iterator[Rank] = merge(passing, leave_order) if passing else iter(leave_order)
        self._victim: Rank | None = None
        self._left = -1  # bytes of the victim that have not been taken; -1: nobody has been looked for
        self._takes_copy = False  # the victim is the second copy of a component that passes

    def give(self, key: str, size_bytes: int) -> None:
        """Give that many of the free bytes to a component that is to come."""
        self.free -= size_bytes
        self._given[key] = size_bytes
        if self._victim is not None and self._victim.key == key and not self._takes_copy:
            self._next_victim()

    def is_given(self, key: str) -> bool:
        """Whether bytes were given to the component."""
        return key in self._given

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
            if record.state is State.ANNOUNCED and key not in self._busy
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

    def make(self, wanted: int, key: str, at: int, *, is_read_now: bool) -> None:
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
        if free < 0 and not (self._takes_copy and self._is_behind(key)) and -free - self._unneeded_bytes() > wanted // MOST_LOST:
            return  # with all gone that nobody reads, too much would still have to leave
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
            if not (is_read_now or never or key in self._busy) and self._better_victim_is_busy(found):
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
        """Whether the victim, a second copy, is the part of the coming component that the running node has gone through: in a loop the
        last bytes leave first (Belady 1966), or all would be pushed out by their own rest before they are used again."""
        return self._victim is not None and self._victim.key == key

    def _unneeded_bytes(self) -> int:
        """Bytes that could leave and that nothing reads any more."""
        held = (record for key, record in self.records.items() if record.held_bytes and not record.coming_bytes and key not in self._busy)
        return sum(
            record.held_bytes - self.evictions.get(record.key, (0, ""))[0]
            for record in held
            if record.key in self.components and self.timeline.missed_at(record.key, self.position) is None
        )

    def _queued_bytes(self) -> int:
        """Bytes that the drives bring first, and for others than the node that runs: it is not done before it has its own."""
        busy = self._busy
        coming_bytes = sum(record.coming_bytes for key, record in self.host.coming.items() if key not in busy)
        return coming_bytes + sum(given_bytes for key, given_bytes in self._given.items() if key not in busy)

    def _better_victim_is_busy(self, found: Rank) -> bool:
        """Whether something in use will be worth less than the victim once its node has ended."""
        if self._busy_rank is None:
            ends_at = self.position if self.running else self.position + 1
            least = WORTH_MOST
            for key in self._busy:
                record = self.records.get(key, NOTHING)
                if record.held_bytes or record.coming_bytes:
                    least = min(least, rank(key, self.timeline, ends_at, self.components, self.terms.policies))
            self._busy_rank = least
        return self._busy_rank[:-1] < found[:-1]

    def _next_victim(self) -> None:
        busy, given, passing = self._busy, self._given, self._passing
        for found in self._leave_order:
            key = found.key
            if passing and (copy_bytes := passing.pop(key, 0)):
                record = self.records[key]
                if not (record.coming_bytes or record.answers_due):
                    self._victim, self._left, self._takes_copy = found, copy_bytes, True
                    return
            record = NOTHING if key in busy or key in given else self.records.get(key, NOTHING)
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


def _describe(found: Rank) -> str:
    return "nothing reads it any more" if found.nearness == -NEVER else f"its next read is at visit {-found.nearness}"
