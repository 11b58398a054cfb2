"""How long a side will take, from this run so far: servers come up, first queues read, later ones mostly compute.

Times not seen of a scenario are taken from its other side, else from the slowest other scenario, by the prompt; those that nobody has seen
count as nothing. So a first side may be begun that turns out longer; it gives way to its other side then, queue by queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import mean

from .scenarios import Temperature
from .sessions import Work, fewer


class Kind(Enum):
    """Of a queue. COLD: after the page cache was dropped; FIRST: on a server that has run nothing; LATER: all others."""

    COLD = "cold"
    FIRST = "first"
    LATER = "later"


# Where to look for what has not been seen of a kind. A first queue behind a cold one mostly finds its files in the page cache.
_LIKE = {
    Kind.COLD: (Kind.COLD, Kind.FIRST, Kind.LATER),
    Kind.FIRST: (Kind.FIRST, Kind.LATER, Kind.COLD),
    Kind.LATER: (Kind.LATER, Kind.FIRST, Kind.COLD),
}


def kinds(work: Work) -> tuple[Kind, ...]:
    """Of all its queues, in their order."""
    if work.scenario.temperature is Temperature.COLD:
        return (Kind.COLD,) * work.measured
    first = Kind.FIRST if work.fresh else Kind.LATER
    return (first, *[Kind.LATER] * (work.warm_ups + work.measured - 1))


@dataclass(frozen=True, slots=True)
class Seen:
    """One queue from its posting until the next could be: `prompts` of them."""

    side: str
    scenario: str
    kind: Kind
    prompts: int
    seconds: float


@dataclass(slots=True)
class Pace:
    """The times seen. `around`: (side, seconds) of a server's start, once it has ended with all else that is no queue."""

    queues: list[Seen] = field(default_factory=list)
    around: list[tuple[str, float]] = field(default_factory=list)

    def side_s(self, side: str, works: Sequence[Work]) -> float:
        """Seconds of one server; 0.0 for one that has nothing to do."""
        return self.queues_s(side, works) + self._around_s(side) if works else 0.0

    def queues_s(self, side: str, works: Iterable[Work]) -> float:
        """Seconds of these works on a server that is up."""
        return sum(self._queue_s(side, work, kind) for work in works for kind in kinds(work))

    def _around_s(self, side: str) -> float:
        mine = [seconds for which, seconds in self.around if which == side]
        return mean(mine or [seconds for _, seconds in self.around] or [0.0])

    def _queue_s(self, side: str, work: Work, kind: Kind) -> float:
        for like in _LIKE[kind]:
            alike = [seen for seen in self.queues if seen.kind is like]
            own = [seen for seen in alike if seen.scenario == work.scenario.name]
            if own:
                return mean([seen.seconds for seen in own if seen.side == side] or [seen.seconds for seen in own])
            if alike:
                return max(seen.seconds / seen.prompts for seen in alike) * len(work.scenario.queue)
        return 0.0


Side = tuple[str, Sequence[Work]]


@dataclass(frozen=True, slots=True)
class Rest:
    """The rest that shall still have its time: `works` on the server of `side`, which is up, then these servers."""

    side: str
    works: Sequence[Work] = ()
    sides: Sequence[Side] = ()

    def seconds(self, pace: Pace) -> float:
        return pace.queues_s(self.side, self.works) + sum(pace.side_s(side, works) for side, works in self.sides)


def least(sides: Sequence[Side]) -> Rest:
    """These sides with one measured queue of each scenario."""
    return Rest(sides[0][0], (), [(side, fewer(works, 1)) for side, works in sides])


def one_more(rest: Rest, work: Work, done: int) -> Rest:
    """One measured queue more of a scenario that has had `done`, and as many of each in the works behind it, not at their cost."""
    again = replace(work, warm_ups=0, measured=1, fresh=False)
    return Rest(rest.side, (again, *fewer(rest.works, done + 1)), [(side, fewer(works, done + 1)) for side, works in rest.sides])
