"""The last plan of the host tier: what it has found, how much of that still holds, and the prefetches that wait for room.

A tier is asked for a plan after every event. Most change nothing that a plan goes by, and of a prompt of a thousand reads most lack nothing
any more: what is known of them is not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .view import Move


@dataclass(slots=True)
class LastPlan:
    """`changed`: something that a plan goes by is another since then. `complete_reads`: so many of the timeline's reads, from its first on,
    lack nothing. `whole_until`: nothing is missing that is read before this position; None once that may not hold any more. `waiting`:
    prefetches that wait for room."""

    changed: bool = True
    complete_reads: int = 0
    whole_until: int | None = None
    waiting: list[Move] = field(default_factory=list)

    def void(self) -> None:
        """There is another order: nothing of what it has found holds."""
        self.complete_reads = 0
        self.doubt()

    def doubt(self) -> None:
        """Contents, wishes or limits are others: what was missing may have got room."""
        self.changed = True
        self.whole_until = None

    def misses(self, number: int, position: int) -> None:
        """The timeline's read of that number, which is at that position, lacks bytes again."""
        if number < self.complete_reads:
            self.complete_reads = number
        if self.whole_until is not None and position < self.whole_until:
            self.whole_until = None

    def found(self, complete_reads: int, whole_until: int | None, prefetches: Iterable[Move]) -> None:
        """A new one takes its place."""
        self.complete_reads, self.whole_until, self.waiting = complete_reads, whole_until, list(prefetches)
