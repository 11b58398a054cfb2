"""In which order ComfyUI will run the nodes.

The executor (comfy_execution/graph.py) picks, each time, the first ready node in insertion order among: output and async nodes; else nodes
that feed an output node; else nodes that feed such a feeder; else any. What a pending node feeds cannot leave before it does, so its class
is fixed while nothing is added, and the choice is a heap keyed by (class, insertion index): O((nodes + links) log nodes).

Lazy inputs are followed only when a node asks for them. `wanted` guesses the answer (see lazy.py); without it they are not followed, and
the order lacks what is behind them, as the executor's own list does at that moment.

With a `grouping` (choice.py) the pack's own rule is applied where the executor is free to choose; it is not changed by the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from heapq import heappop, heappush

from .choice import FEEDS_FEEDER, FEEDS_OUTPUT, REST, URGENT, Grouping
from .traits import UNKNOWN, Node, NodeOf, NodeTraits, TraitsOf, is_link, links

Wanted = Callable[[str, Node], Iterable[str]]  # node id, node -> names of the lazy inputs that it is expected to ask for


def predict_order(
    prompt: Mapping[str, Node],
    outputs: Iterable[str],
    traits: TraitsOf,
    cached: Container[str] = frozenset(),
    wanted: Wanted | None = None,
    grouping: Grouping | None = None,
) -> list[str]:
    """Node ids in the order in which a prompt will run.

    `outputs` are the output nodes in the order in which ComfyUI queues them (item 4 of a queue entry): it makes that list from a set of
    strings, so it differs between processes and is not a function of the prompt. `cached` are the nodes whose results are kept; an output
    node is visited even then. Links to nodes that do not exist are ignored; nodes of a cycle, and what is behind it, are left out.
    """
    schedule = _Schedule(prompt.get, traits, cached, wanted, grouping)
    for node_id in outputs:
        schedule.add(node_id)
    return schedule.run()


def predict_pending(
    pending: Iterable[str],
    block_count: Mapping[str, int],
    blocking: Mapping[str, Iterable[str]],
    node_of: NodeOf,
    traits: TraitsOf,
    cached: Container[str] = frozenset(),
    wanted: Wanted | None = None,
    grouping: Grouping | None = None,
) -> list[str]:
    """Node ids in the order in which what is left will run, from the live `pendingNodes`, `blockCount` and `blocking` of an ExecutionList.

    A node that runs now is still pending and comes first. A node that waits for something outside the graph (an async node's task) is
    taken as late as possible: when nothing else is ready. The arguments are not changed. `cached` matters only together with `wanted`.
    """
    schedule = _Schedule(node_of, traits, cached, wanted, grouping)
    schedule.resume(pending, block_count, blocking)
    return schedule.run()


class _Schedule:
    """The executor's list of pending nodes, without its waiting and its caches."""

    def __init__(self, node_of: NodeOf, traits: TraitsOf, cached: Container[str], wanted: Wanted | None, grouping: Grouping | None) -> None:
        self._node_of = node_of
        self._traits_of = traits
        self._cached = cached
        self._wanted = wanted
        self._grouping = grouping.copy() if grouping is not None else None
        self._traits: dict[str, NodeTraits] = {}  # by node id
        self._index: dict[str, int] = {}  # insertion index, of every node ever added
        self._done: set[str] = set()
        self._asked: set[str] = set()  # lazy nodes whose wishes were followed
        self._waits_for: dict[str, int] = {}  # node -> how many nodes block it
        self._feeds: dict[str, dict[str, None]] = {}  # node -> nodes that it blocks
        self._class: dict[str, int] = {}
        self._heap: list[tuple[int, int, str]] = []

    def add(self, root: str) -> None:
        """The executor's add_node: depth first with a stack, the last input first; links are counted after all nodes are in."""
        stack = [root]
        found: list[tuple[str, str]] = []
        while stack:
            node_id = stack.pop()
            node = self._node_of(node_id)
            if node_id in self._index or node is None:
                continue
            traits = self._enter(node_id, node)
            for name, source, _ in links(node):
                if name in traits.lazy or self._is_ready(source):
                    continue
                stack.append(source)
                found.append((source, node_id))
        for source, target in found:
            self._block(source, target)

    def resume(self, pending: Iterable[str], block_count: Mapping[str, int], blocking: Mapping[str, Iterable[str]]) -> None:
        for node_id in pending:
            self._enter(node_id, self._node_of(node_id) or {})
            self._feeds[node_id] = dict.fromkeys(blocking.get(node_id, ()))
            self._waits_for[node_id] = block_count.get(node_id, 0)

    def run(self) -> list[str]:
        order: list[str] = []
        self._classify(self._index)
        for node_id in self._index:
            self._push(node_id)
        while True:
            chosen = self._choose()
            if chosen is None:
                if not self._release_external():
                    return order
                continue
            if self._wanted is not None and self._ask(chosen):
                continue
            self._done.add(chosen)
            order.append(chosen)
            if self._grouping is not None:
                self._grouping.ran(chosen)
            for target in self._feeds[chosen]:
                if target in self._waits_for:
                    self._waits_for[target] -= 1
                    self._push(target)

    def _enter(self, node_id: str, node: Node) -> NodeTraits:
        traits = self._traits_of(node.get("class_type", "")) or UNKNOWN
        self._index[node_id] = len(self._index)
        self._traits[node_id] = traits
        self._waits_for[node_id] = 0
        self._feeds[node_id] = {}
        return traits

    def _is_ready(self, node_id: str) -> bool:
        return node_id in self._done or node_id in self._cached or self._node_of(node_id) is None

    def _block(self, source: str, target: str) -> None:
        if target not in self._feeds[source]:
            self._feeds[source][target] = None
            self._waits_for[target] += 1

    def _classify(self, node_ids: Iterable[str]) -> None:
        traits, feeds = self._traits, self._feeds
        feeds_output = {node_id: any(t in traits and traits[t].is_output for t in feeds[node_id]) for node_id in feeds}
        for node_id in node_ids:
            own = traits[node_id]
            if own.is_output or own.is_async:
                self._class[node_id] = URGENT
            elif feeds_output[node_id]:
                self._class[node_id] = FEEDS_OUTPUT
            elif any(feeds_output.get(target, False) for target in feeds[node_id]):
                self._class[node_id] = FEEDS_FEEDER
            else:
                self._class[node_id] = REST

    def _push(self, node_id: str) -> None:
        if self._waits_for[node_id] == 0:
            heappush(self._heap, (self._class[node_id], self._index[node_id], node_id))

    def _choose(self) -> str | None:
        own = self._pop()
        if own is None or self._grouping is None:
            return own
        chosen = self._grouping.choose(own, self._ready(), self._class.__getitem__)
        if chosen != own:
            self._push(own)
        return chosen

    def _ready(self) -> Iterator[str]:
        """The ready nodes behind the one that was just taken, in insertion order; nothing is looked up before they are asked for."""
        found = {index: node_id for rank, index, node_id in self._heap if self._is_live(rank, node_id)}
        yield from (found[index] for index in sorted(found))

    def _is_live(self, rank: int, node_id: str) -> bool:
        return node_id not in self._done and self._waits_for[node_id] == 0 and self._class[node_id] == rank

    def _pop(self) -> str | None:
        """The next node; entries that a lazy input has made stale are dropped here."""
        while self._heap:
            rank, _, node_id = heappop(self._heap)
            if self._is_live(rank, node_id):
                return node_id
        return None

    def _ask(self, node_id: str) -> bool:
        """Follow the lazy inputs that the node is expected to want; true if it has to wait for them."""
        node = self._node_of(node_id)
        if node is None or self._wanted is None or node_id in self._asked or not self._traits[node_id].lazy:
            return False
        self._asked.add(node_id)
        before = len(self._index)
        for name in self._wanted(node_id, node):
            value = node.get("inputs", {}).get(name)
            if name in self._traits[node_id].lazy and is_link(value) and not self._is_ready(value[0]):
                self.add(value[0])
                self._block(value[0], node_id)
        if self._waits_for[node_id] == 0:
            return False
        self._classify(self._index)
        for added in list(self._index)[before:]:
            self._push(added)
        for other in [entry[2] for entry in self._heap]:
            self._push(other)  # its class may have risen
        return True

    def _release_external(self) -> bool:
        """Nothing is ready: let the nodes go on that no pending node blocks. False when there are none (the end, or a cycle)."""
        blocked = {target for node_id in self._index if node_id not in self._done for target in self._feeds[node_id]}
        free = [node_id for node_id in self._index if node_id not in self._done and node_id not in blocked]
        for node_id in free:
            self._waits_for[node_id] = 0
            self._push(node_id)
        return bool(free)
