"""The planner's arguments and its answer: a tier, the wishes for it, the moves. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .budget import Budget
from .component import Policy
from .component_state import ComponentState
from .eviction_order import NEVER

NOTHING = ComponentState("")  # of a component that the tier has never heard of


class Move(NamedTuple):
    """Bytes of one component. A prefetch: how many are to be there. An eviction: how many are to be given back, the last ones."""

    component: str
    size_bytes: int
    reason: str


class Plan(NamedTuple):
    """In the order in which they must be given: cancels and evictions make the room.

    `complete_reads`: of the timeline's reads, those before this number need nothing; the next plan may begin there. `whole_until`:
    with all this done, nothing is missing that may come and is read before that position, and order alone decides; None: that is not so.
    """

    cancels: Sequence[Move] = ()
    surplus: Sequence[Move] = ()  # second copies that are given back, the last bytes of each: the process holds them for itself
    evictions: Sequence[Move] = ()
    prefetches: Sequence[Move] = ()
    complete_reads: int = 0
    whole_until: int | None = None


class TierView(Protocol):
    """The part of a TierState that a plan reads. The room of bytes that are stopping or leaving counts as free; their movers'
    answers decide when."""

    @property
    def budget(self) -> Budget: ...

    @property
    def records(self) -> Mapping[str, ComponentState]: ...

    @property
    def coming(self) -> Mapping[str, ComponentState]: ...

    @property
    def asked(self) -> Mapping[str, ComponentState]: ...

    @property
    def surplus(self) -> Mapping[str, ComponentState]: ...

    @property
    def leaving_bytes(self) -> int: ...

    @property
    def stopping_bytes(self) -> int: ...


@dataclass(slots=True)
class Terms:
    """The conditions of a plan beside the budget.

    `alone`: components whose drive serves one reader at a time. `copies`: a node needs room for another copy of all it reads.
    `passes`: the running node's weights leave the page cache as they are fetched, piece by piece, and the host looks meanwhile.
    `passing`: components whose bytes the process will not keep once the running node has fetched them: their second copies leave by rank.
    `reserve_bytes`: the contents may exceed the limit by so many. `may_prefetch(key)`: whether modes and policies let it be read ahead.
    `before_free(key)`: bytes of a component that its drive can bring before the components in use are free.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    alone: Collection[str] = frozenset()
    copies: bool = False
    passes: bool = False
    passing: Collection[str] = frozenset()
    reserve_bytes: int = 0
    may_prefetch: Callable[[str], bool] = lambda key: True
    before_free: Callable[[str], float] = lambda key: NEVER
