"""Which of the ready nodes runs next, where the executor is free to choose.

ComfyUI's executor takes the first ready node by its own rule and knows nothing of weights: two models whose samplers do not depend on each
other alternate, and a device that holds only one of them loads at every node. Here a node that computes with weights on the device goes
before one that would displace it. The order of ready nodes never changes a result: none of them waits for another.

The rest of ComfyUI's order stays: output and async nodes go first, a node that feeds an output node directly gives way only to another such
node (previews come as soon as they can), and nothing is moved when the components of the prompt fit on the device together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import heappop, heappush

# ComfyUI's own ranks of ready nodes, the first one first
URGENT, FEEDS_OUTPUT, FEEDS_FEEDER, REST = range(4)


def choose(
    own: str,
    ready: Iterable[str],
    computes: Mapping[str, Collection[str]],
    recent: Collection[str],
    fit: Callable[[Iterable[str]], bool],
) -> str:
    """`own`, ComfyUI's choice, or the first node of `ready` that computes with nothing but components just used, where that pays.

    It pays if `own` computes with something that was not just used and that does not `fit` on the device beside the other node's
    components. `ready` is walked only if `own` would load.
    """
    wants = computes.get(own, ())
    if all(key in recent for key in wants):
        return own
    for node_id in ready:
        uses = computes.get(node_id, ())
        if uses and all(key in recent for key in uses) and not fit({*wants, *uses}):
            return node_id
    return own


def rivals(own: str, ready: Iterable[str], rank: Callable[[str], int]) -> Iterable[str]:
    """The ready nodes that `own` may give way to. `ready` is in ComfyUI's order; `rank` gives ComfyUI's ranks."""
    own_rank = rank(own)
    if own_rank == URGENT:
        return ()
    if own_rank == FEEDS_OUTPUT:
        return (node_id for node_id in ready if rank(node_id) == FEEDS_OUTPUT)
    return ready


class Grouping:
    """The rule for one prompt, with the components that the nodes that ran have left on the device.

    `computes` are the component keys by node, `size_bytes` gives their sizes, the device holds `limit_bytes`. Just used are the
    components used last, as many as fit there; those of the last node always.
    """

    def __init__(
        self,
        computes: Mapping[str, Collection[str]],
        size_bytes: Callable[[str], int],
        limit_bytes: int,
        recent: Iterable[str] = (),
    ) -> None:
        self._computes = computes
        self._size_bytes = size_bytes
        self._limit_bytes = limit_bytes
        self._recent = OrderedDict.fromkeys(recent)  # the last used one last
        self._recent_bytes = sum(map(size_bytes, self._recent))

    def pays(self, keys: Iterable[str]) -> bool:
        """Whether these components, all that the prompt computes with, do not fit on the device; if they do the rule changes nothing."""
        return not self._fit(set(keys))

    @property
    def recent(self) -> tuple[str, ...]:
        """Component keys, the last used one last."""
        return tuple(self._recent)

    def choose(self, own: str, ready: Iterable[str], rank: Callable[[str], int]) -> str:
        """The node to run: `own`, or a node of `ready`."""
        return choose(own, rivals(own, ready, rank), self._computes, self._recent, self._fit)

    def ran(self, node_id: str) -> tuple[list[str], list[str]]:
        """The node has run: its components were used last. Which have become recent by it, and which are no longer."""
        came: list[str] = []
        left: list[str] = []
        used = self._computes.get(node_id, ())
        for key in used:
            if key not in self._recent:
                came.append(key)
                self._recent_bytes += self._size_bytes(key)
            self._recent[key] = None
            self._recent.move_to_end(key)
        while used and self._recent_bytes > self._limit_bytes:
            key = next(iter(self._recent))
            if key in used:
                break  # those of the last node stay
            del self._recent[key]
            self._recent_bytes -= self._size_bytes(key)
            left.append(key)
        return came, left

    def copy(self) -> Grouping:
        """The same as it is now, to look ahead with."""
        return Grouping(self._computes, self._size_bytes, self._limit_bytes, self._recent)

    def uses(self, node_id: str) -> frozenset[str]:
        """The components that the node computes with."""
        return frozenset(self._computes.get(node_id, ()))

    def would_load(self, keys: Iterable[str]) -> bool:
        """Whether any of them was not just used."""
        return any(key not in self._recent for key in keys)

    def displaces(self, wanted: frozenset[str], used: frozenset[str]) -> bool:
        """Whether the two do not fit on the device together."""
        return not self._fit(wanted | used)

    def _fit(self, keys: Iterable[str]) -> bool:
        return sum(map(self._size_bytes, keys)) <= self._limit_bytes


_Group = tuple[frozenset[str], bool]  # component keys; whether its nodes feed an output node


class Candidates:
    """The ready nodes of a prediction, grouped by the components that they compute with: `choose` without walking all of them.

    A group is `warm` while all its components were just used. Only groups with ready nodes are kept, so that a component that becomes
    recent, or is no longer, touches few of them.
    """

    def __init__(self, grouping: Grouping) -> None:
        self._grouping = grouping.copy()
        self._ready: dict[_Group, list[tuple[int, str]]] = {}  # heaps by insertion index; nodes that left them may still be in there
        self._by_key: dict[str, dict[_Group, None]] = {}
        self._cold: dict[_Group, int] = {}  # how many of its components were not just used
        self._warm: dict[_Group, None] = {}

    def add(self, node_id: str, index: int, feeds_output: bool) -> None:
        """The node is ready."""
        uses = self._grouping.uses(node_id)
        if not uses:
            return
        group = uses, feeds_output
        if group not in self._ready:
            self._ready[group] = []
            self._cold[group] = sum(self._grouping.would_load((key,)) for key in uses)
            for key in uses:
                self._by_key.setdefault(key, {})[group] = None
            if not self._cold[group]:
                self._warm[group] = None
        heappush(self._ready[group], (index, node_id))

    def choose(self, own: str, feeds_output: bool, is_ready: Callable[[str, bool], bool], spend: Callable[[], object]) -> str:
        """As Grouping.choose, among those that `own`, which feeds an output or not, may give way to."""
        wanted = self._grouping.uses(own)
        if not self._grouping.would_load(wanted):
            return own
        best: tuple[int, str] | None = None
        for group in list(self._warm):
            spend()
            uses, near = group
            if near == feeds_output:
                first = self._first(group, is_ready)
                if first is not None and (best is None or first < best) and self._grouping.displaces(wanted, uses):
                    best = first
        return own if best is None else best[1]

    def ran(self, node_id: str, is_ready: Callable[[str, bool], bool]) -> None:
        """The node has run: its components were used last."""
        uses = self._grouping.uses(node_id)
        for group in ((uses, True), (uses, False)):
            if group in self._ready:
                self._first(group, is_ready)
        came, left = self._grouping.ran(node_id)
        for key in came:
            for group in self._by_key.get(key, ()):
                self._cold[group] -= 1
                if not self._cold[group]:
                    self._warm[group] = None
        for key in left:
            for group in self._by_key.get(key, ()):
                self._cold[group] += 1
                self._warm.pop(group, None)

    def _first(self, group: _Group, is_ready: Callable[[str, bool], bool]) -> tuple[int, str] | None:
        """The group's first ready node; a group without one is forgotten."""
        heap = self._ready[group]
        while heap:
            if is_ready(heap[0][1], group[1]):
                return heap[0]
            heappop(heap)
        del self._ready[group], self._cold[group]
        self._warm.pop(group, None)
        for key in group[0]:
            del self._by_key[key][group]
        return None
