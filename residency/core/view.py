"""What the planner may know of a tier and of the wishes for it, and what it answers. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .component import Policy
from .eviction_order import NEVER


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes of one component. A prefetch: how many are to be there. An eviction: how many are to be given back, the last ones."""

    component: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """In the order in which they must be given: cancels and evictions make the room.

    `complete_reads`: of the timeline's reads, those before this number need nothing; the next plan may begin there.
    """

    cancels: tuple[Move, ...] = ()
    surplus: tuple[Move, ...] = ()  # second copies that are given back: the process holds those bytes for itself
    evictions: tuple[Move, ...] = ()
    prefetches: tuple[Move, ...] = ()
    complete_reads: int = 0


class TierView(Protocol):
    """Bytes present by component, bytes in flight, the limit on their sum. A Budget is one."""

    @property
    def held(self) -> Mapping[str, int]: ...

    @property
    def in_flight(self) -> Mapping[str, int]: ...

    @property
    def limit_bytes(self) -> int: ...

    @property
    def used_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class HostView:
    """A TierView for tests and tools."""

    held: Mapping[str, int]
    in_flight: Mapping[str, int]
    limit_bytes: int

    @property
    def used_bytes(self) -> int:
        return sum(self.held.values()) + sum(self.in_flight.values())


@dataclass(slots=True)
class Terms:
    """What the plan must respect beside the budget.

    `loaded`: bytes by component, from its start, that the process holds for itself and reads no more. `asked`: reasons by component,
    read first whatever the order says. `alone`: components whose drive serves one reader at a time. `stopping`: transfers that were
    told to stop; `leaving`: bytes by component that were told to leave. The room of both counts as free; their movers' answers decide
    when. `surplus`: bytes of second copies in the tier, of what is loaded; `copies`: a node needs room for another copy of all it reads.
    `reserve_bytes`: what is there may exceed the limit by so much. `before_free(key)`: bytes of a component that its drive can bring
    before what is busy now has ended.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    loaded: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    alone: Collection[str] = frozenset()
    stopping: Collection[str] = frozenset()
    leaving: Mapping[str, int] = field(default_factory=dict)
    surplus: Mapping[str, int] = field(default_factory=dict)
    copies: bool = False
    reserve_bytes: int = 0
    may_prefetch: Callable[[str], bool] = lambda key: True
    before_free: Callable[[str], float] = lambda key: NEVER
