"""Which bytes should move now: a pure function of the timeline, the components and the host budget.

Prefetch in order of next read. Make room by dropping what is read farthest in the future, or never again; between equals the one
that is cheaper to read back. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .component import Component
from .timeline import Timeline

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes of one component to bring to the host, or to give back."""

    component: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Evictions come before prefetches: they make the room."""

    evictions: tuple[Move, ...] = ()
    prefetches: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class HostView:
    """What the planner may know of the host tier: bytes present by component, bytes in flight, and the limit on their sum."""

    held: Mapping[str, int]
    in_flight: Mapping[str, int]
    limit_bytes: int


def plan(
    timeline: Timeline,
    position: int,
    components: Mapping[str, Component],
    host: HostView,
    busy: frozenset[str] = frozenset(),
    may_prefetch: Callable[[str], bool] = lambda key: True,
) -> Plan:
    """Plan the host tier at `position` (the visit that runs now; -1 before the first).

    `busy` components are in use and may not be evicted, nor may those in flight. `may_prefetch` says whether a component is
    managed at all. The bytes of the result, with what is held and in flight, never exceed the limit; when the limit has shrunk
    under what is held, the evictions give back as much as they may.
    """
    free = host.limit_bytes - sum(host.held.values()) - sum(host.in_flight.values())
    victims = _victims(timeline, position, components, host, busy)
    evictions: list[Move] = []
    prefetches: list[Move] = []

    victim = next(victims, None)
    while free < 0 and victim is not None:
        evictions.append(Move(victim.component, victim.held_bytes, f"memory is short: {-free} bytes over the limit; {victim.describe()}"))
        free += victim.held_bytes
        victim = next(victims, None)

    for key, read_at in _reads(timeline, position):
        if key not in components or not may_prefetch(key) or key in host.in_flight:
            continue
        missing = components[key].size_bytes - host.held.get(key, 0)
        if missing <= 0:
            continue
        while missing > free and victim is not None and victim.next_read > read_at and victim.component != key:
            evictions.append(Move(victim.component, victim.held_bytes, f"makes room for {components[key].name}; {victim.describe()}"))
            free += victim.held_bytes
            victim = next(victims, None)
        size = min(missing, free)
        if size <= 0:
            break
        visit = timeline.visits[read_at]
        reason = f"read by {visit.class_type} {visit.node_id}, {_nodes_ahead(read_at - position)}"
        if size < missing:
            reason += f"; {missing - size} bytes of it do not fit the budget"
        prefetches.append(Move(key, host.held.get(key, 0) + size, reason))
        free -= size
        if size < missing:
            break
    return Plan(tuple(evictions), tuple(prefetches))


def _nodes_ahead(count: int) -> str:
    return "next" if count <= 1 else f"{count} nodes ahead"


def _reads(timeline: Timeline, position: int) -> Iterator[tuple[str, int]]:
    """Components in order of their next read after `position`, with the position of that read."""
    upcoming = []
    for key in timeline.components():
        use = timeline.next_read(key, position)
        if use is not None:
            upcoming.append((use.position, key))
    # stable: components of one visit keep the order in which the timeline lists them
    return ((key, at) for at, key in sorted(upcoming, key=lambda item: item[0]))


@dataclass(frozen=True, slots=True)
class _Victim:
    component: str
    held_bytes: int
    next_read: float

    def describe(self) -> str:
        return "nothing reads it any more" if self.next_read == NEVER else f"its next read is at visit {self.next_read:.0f}"


def _victims(
    timeline: Timeline, position: int, components: Mapping[str, Component], host: HostView, busy: frozenset[str]
) -> Iterator[_Victim]:
    """Held components that may leave, best victim first."""
    candidates = []
    for key, held_bytes in host.held.items():
        if key in busy or key in host.in_flight:
            continue
        use = timeline.next_expected_read(key, position)
        candidates.append(_Victim(key, held_bytes, NEVER if use is None else use.position))
    candidates.sort(key=lambda victim: (-victim.next_read, victim.held_bytes))
    return iter(candidates)
