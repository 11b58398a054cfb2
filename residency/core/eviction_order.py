"""Who leaves a tier first: the held components in order, kept up to date instead of sorted anew.

A component's rank changes when a visit passes one of its reads or when a policy changes, never in between; so each visit costs a few
bisections, however many components are held.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .component import Component, Policy
from .timeline import Timeline

NEVER = float("inf")
ASKED = Policy()


class Rank(NamedTuple):
    """Smaller leaves sooner: one that nobody keeps, the lower priority, the farther next read, the cheaper one to read back.

    `key` is the component's: with it in the rank, holding two against one another is one comparison of tuples and not one inside another.
    """

    keep: bool
    priority: int
    nearness: float  # minus the position of the next read; minus infinity when there is none
    size_bytes: int
    key: str

    def asked_for(self) -> Rank:
        """The rank of one that the user wants next: whatever its priority it leaves for nothing else, or it would be asked for again."""
        return self._replace(keep=True, nearness=1)

    def yields_to(self, priority: int, read_at: float) -> bool:
        """Whether these bytes may make room for ones of that priority that are read at `read_at`."""
        if self.keep or self.priority > priority:
            return False
        return self.priority < priority or -self.nearness > read_at


def rank(key: str, timeline: Timeline, position: int, components: Mapping[str, Component], policies: Mapping[str, Policy]) -> Rank:
    """The rank of a component for a visit at `position`."""
    policy = policies.get(key, ASKED) if policies else ASKED
    missed_at = timeline.missed_at(key, position)
    nearness = -NEVER if missed_at is None else -missed_at
    component = components.get(key)
    return Rank(policy.keep, policy.priority, nearness, 0 if component is None else component.size_bytes, key)


class Ranking:
    """Components by rank. `put` whenever a rank may have changed: a bisection, and one shift in a list of the held ones."""

    def __init__(self) -> None:
        self._order: list[Rank] = []
        self._ranks: dict[str, Rank] = {}

    def put(self, new: Rank) -> None:
        """`new` holds from now on, whether its component was held before or not."""
        key, order = new.key, self._order
        old = self._ranks.get(key)
        if old == new:
            return
        if old is not None:
            del order[bisect_left(order, old)]
        self._ranks[key] = new
        insort(order, new)

    def drop(self, key: str) -> None:
        """Nothing happens where the component is not held."""
        old = self._ranks.pop(key, None)
        if old is not None:
            del self._order[bisect_left(self._order, old)]

    def clear(self) -> None:
        self._order.clear()
        self._ranks.clear()

    def __len__(self) -> int:
        return len(self._order)

    def rank_of(self, key: str) -> Rank | None:
        """Its rank; None when it is not held."""
        return self._ranks.get(key)

    def first_to_leave(self) -> Sequence[Rank]:
        """Who leaves first in front: a view that changes with the ranking."""
        return self._order
