"""Instructions, which come out of the manager for the movers. Plain frozen data; each says why, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ._frozen import dataclass
from .component import Component, Tier


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Bring the first `size_bytes` of the component to the tier, but for the first `start_bytes`. Earlier Prefetches come first.

    The present bytes of the answer count from `start_bytes` on. To the device one that is not answered yet may be followed by a longer one:
    there is one answer then. Not `ahead`: the node that starts computes with it; it stands until the host has loaded that model and made
    room, and more than is planned for may find none.
    """

    component: Component
    tier: Tier
    size_bytes: int
    reason: str
    start_bytes: int = 0
    ahead: bool = True


@dataclass(frozen=True, slots=True)
class Exchange:
    """To the device, where a weight has one copy over two tiers: when the host loads the component, bring those of its first `size_bytes`
    that lie in host memory, in exchange for the ends of those `leaving`, the best victim first. The ends are written back, but for
    `outside`: so many bytes by component, from its end.

    `left_out`: bytes in neither tier get no room, and nothing else loses its place in host memory for them. Holds for every load of the
    node that starts. The mover answers with Evicted for each that has left, and one TransferDone or TransferStopped.
    """

    component: Component
    tier: Tier
    size_bytes: int
    reason: str
    leaving: tuple[Component, ...] = ()
    left_out: bool = False
    outside: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop an announced or running Prefetch, or an Exchange that has not taken place; the mover answers with TransferStopped."""

    component: Component
    tier: Tier
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Hold the node that is about to start until the first `size_bytes` of the component are there, or its Prefetch has ended."""

    component: Component
    tier: Tier
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Give the component's bytes on the tier back, those in [keep_bytes, upto_bytes) (None: to its end); the mover answers with Evicted.

    `size_bytes` are expected to come free.
    """

    component: Component
    tier: Tier
    size_bytes: int
    reason: str
    keep_bytes: int = 0
    upto_bytes: int | None = None


Instruction = Prefetch | Exchange | Cancel | Wait | Evict
