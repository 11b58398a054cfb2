"""In which order ComfyUI will run the nodes.

The executor (comfy_execution/graph.py) picks, each time, the first ready node in insertion order among: output and async nodes; else nodes
that feed an output node; else nodes that feed such a feeder; else any. The nodes that a pending one feeds cannot leave before it does, so
its class only ever rises, and only when a link is added near it. The choice is a heap keyed by (class, insertion index): a node is queued
anew when its class has risen, and older entries are dropped when they come up. O((nodes + links) log nodes), lazy inputs included.

Lazy inputs are followed only when a node asks for them. `wanted` guesses the answer (see lazy.py); without it they are not followed, and
the order lacks the nodes behind them, as the executor's own list does at that moment. A node that asks has two turns: it is started, asks
and is put back, and is started again once it has the inputs that it asked for.

With a `grouping` (grouping.py) the pack's own rule is applied where the executor is free to choose; it is not changed by the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from .allowance import Allowance
from .grouping import FEEDS_FEEDER, FEEDS_OUTPUT, REST, URGENT, Candidates, Grouping
from .traits import UNKNOWN, Node, NodeOf, NodeTraits, TraitsOf, is_link, links

Wanted = Callable[[str, Node], Iterable[str]]  # node id, node -> names of the lazy inputs that it is expected to ask for


class Turn(NamedTuple):
    """One start of a node. `asks` None: it runs. Else it asks for lazy inputs, is put back, and waits for so many nodes."""

    node_id: str
    asks: int | None = None


def predict_order(
    prompt: Mapping[str, Node],
    outputs: Iterable[str],
    traits: TraitsOf,
    cached: Container[str] = frozenset(),
    wanted: Wanted | None = None,
    grouping: Grouping | None = None,
    allowance: Allowance | None = None,
) -> list[str]:
    """Node ids in the order in which a prompt will run.

    `outputs` are the output nodes in the order in which ComfyUI queues them (item 4 of a queue entry): it makes that list from a set of
    strings, so it differs between processes and is not a function of the prompt. `cached` are the nodes whose results are kept; an output
    node is visited even then. Links to nodes that do not exist are ignored; nodes of a cycle, and those behind it, are left out.
    Raises AllowanceError when the allowance is used up.
    """
    schedule = _Schedule(prompt.get, traits, cached, wanted, grouping, allowance)
    for node_id in outputs:
        schedule.add(node_id)
    return [turn.node_id for turn in schedule.run() if turn.asks is None]


def predict_turns(
    pending: Iterable[str],
    block_count: Mapping[str, int],
    blocking: Mapping[str, Iterable[str]],
    node_of: NodeOf,
    traits: TraitsOf,
    cached: Container[str] = frozenset(),
    wanted: Wanted | None = None,
    grouping: Grouping | None = None,
    allowance: Allowance | None = None,
    asked: Iterable[str] = (),
) -> list[Turn]:
    """The starts of nodes that are left, from the live `pendingNodes`, `blockCount` and `blocking` of an ExecutionList.

    A node that runs now is still pending and comes first. A node that waits for something outside the graph (an async node's task) is
    taken as late as possible: when nothing else is ready. The arguments are not changed. `cached` matters only together with `wanted`;
    `asked` are the nodes that have asked for their lazy inputs already. Raises AllowanceError when the allowance is used up.
    """
    schedule = _Schedule(node_of, traits, cached, wanted, grouping, allowance, asked)
    schedule.resume(pending, block_count, blocking)
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
    """Ids of the nodes that are left, in the order in which they will run: predict_turns without the turns in which a node only asks."""
    turns = predict_turns(pending, block_count, blocking, node_of, traits, cached, wanted, grouping)
    return [turn.node_id for turn in turns if turn.asks is None]


class _Schedule:
    """The executor's list of pending nodes, without its waiting and its caches."""

    def __init__(
        self,
        node_of: NodeOf,
        traits: TraitsOf,
        cached: Container[str],
        wanted: Wanted | None,
        grouping: Grouping | None,
        allowance: Allowance | None,
        asked: Iterable[str] = (),
    ) -> None:
        self._node_of = node_of
        self._traits_of = traits
        self._cached = cached
        self._wanted = wanted
        self._candidates = Candidates(grouping) if grouping is not None else None
        self._spend = (allowance or Allowance()).spend
        self._traits: dict[str, NodeTraits] = {}  # by node id
        self._index: dict[str, int] = {}  # insertion index, of every node ever added
        self._done: set[str] = set()
        self._asked: set[str] = set(asked)  # lazy nodes whose wishes were followed
        self._blockers: dict[str, int] = {}  # node -> how many pending nodes it waits for
        self._outside: set[str] = set()  # nodes that wait for something outside the graph as well
        self._held: list[str] = []  # those of them that wait for nothing else
        self._feeds: dict[str, dict[str, None]] = {}  # node -> nodes that it blocks
        self._fed_by: dict[str, list[str]] = {}
        self._feeders: set[str] = set()  # nodes that feed an output node
        self._class: dict[str, int] = {}
        self._touched: list[str] = []  # added, or of a higher class, and not queued since
        self._heap: list[tuple[int, int, str]] = []

    def add(self, root: str) -> None:
        """The executor's add_node: depth first with a stack, the last input first; links are counted after all nodes are in."""
        stack = [root]
        found: list[tuple[str, str]] = []
        while stack:
            node_id = stack.pop()
            node = None if node_id in self._index else self._node_of(node_id)
            if node is None:
                continue
            traits = self._enter(node_id, node)
            walked = 1
            for name, source, _ in links(node):
                walked += 1
                if name not in traits.lazy and not self._has_run(source):
                    stack.append(source)
                    found.append((source, node_id))
            self._spend(walked)
        self._spend(len(found))
        for source, target in found:
            self._block(source, target)

    def resume(self, pending: Iterable[str], block_count: Mapping[str, int], blocking: Mapping[str, Iterable[str]]) -> None:
        index, walked = self._index, 0
        for node_id in pending:
            self._enter(node_id, self._node_of(node_id) or {})
        for node_id in index:
            walked += 1
            for target in blocking.get(node_id, ()):
                if target in index:
                    walked += 1
                    self._block(node_id, target)
        self._spend(walked)
        self._outside = {node_id for node_id, count in self._blockers.items() if block_count.get(node_id, 0) > count}

    def run(self) -> list[Turn]:
        turns: list[Turn] = []
        blockers = self._blockers
        self._held = [node_id for node_id in self._outside if not self._blockers[node_id]]
        self._queue_touched()
        while True:
            chosen = self._choose()
            if chosen is None:
                if not self._release():
                    return turns
                continue
            waits = self._ask(chosen)
            if waits is not None:
                turns.append(Turn(chosen, waits))
                self._push(chosen)
                continue
            self._done.add(chosen)
            turns.append(Turn(chosen))
            if self._candidates is not None:
                self._candidates.ran(chosen, self._is_candidate)
            self._spend(1 + len(self._feeds[chosen]))
            for target in self._feeds[chosen]:
                blockers[target] -= 1
                if not blockers[target]:
                    if target in self._outside:
                        self._held.append(target)
                    self._push(target)

    def _enter(self, node_id: str, node: Node) -> NodeTraits:
        traits = self._traits_of(node.get("class_type", "")) or UNKNOWN
        self._index[node_id] = len(self._index)
        self._traits[node_id] = traits
        self._blockers[node_id] = 0
        self._feeds[node_id] = {}
        self._fed_by[node_id] = []
        self._class[node_id] = URGENT if traits.is_output or traits.is_async else REST
        self._touched.append(node_id)
        return traits

    def _has_run(self, node_id: str) -> bool:
        return node_id in self._done or node_id in self._cached or self._node_of(node_id) is None

    def _block(self, source: str, target: str) -> None:
        if target in self._feeds[source]:
            return
        self._feeds[source][target] = None
        self._fed_by[target].append(source)
        self._blockers[target] += 1
        if target in self._feeders:
            self._raise(source, FEEDS_FEEDER)
        if self._traits[target].is_output and source not in self._feeders:
            self._feeders.add(source)
            self._raise(source, FEEDS_OUTPUT)
            self._spend(1 + len(self._fed_by[source]))
            for feeder in self._fed_by[source]:
                self._raise(feeder, FEEDS_FEEDER)

    def _raise(self, node_id: str, rank: int) -> None:
        if rank < self._class[node_id]:
            self._class[node_id] = rank
            self._touched.append(node_id)

    def _is_ready(self, node_id: str) -> bool:
        return not self._blockers[node_id] and node_id not in self._outside and node_id not in self._done

    def _queue_touched(self) -> None:
        for node_id in self._touched:
            if not self._blockers[node_id]:
                self._push(node_id)
        self._touched.clear()

    def _push(self, node_id: str) -> None:
        """Queue the node if it is ready."""
        if self._is_ready(node_id):
            rank, index = self._class[node_id], self._index[node_id]
            self._spend()
            heappush(self._heap, (rank, index, node_id))
            if self._candidates is not None and rank != URGENT:
                self._candidates.add(node_id, index, rank == FEEDS_OUTPUT)

    def _choose(self) -> str | None:
        own = self._pop()
        if own is None or self._candidates is None or self._class[own] == URGENT:
            return own
        chosen = self._candidates.choose(own, self._class[own] == FEEDS_OUTPUT, self._is_candidate, self._spend)
        if chosen != own:
            heappush(self._heap, (self._class[own], self._index[own], own))
        return chosen

    def _is_candidate(self, node_id: str, feeds_output: bool) -> bool:
        return self._is_ready(node_id) and (self._class[node_id] == FEEDS_OUTPUT) == feeds_output

    def _pop(self) -> str | None:
        """The next node; entries of nodes that have run, wait again or have a higher class by now are dropped here."""
        while self._heap:
            rank, _, node_id = heappop(self._heap)
            if self._is_ready(node_id) and self._class[node_id] == rank:
                return node_id
        return None

    def _ask(self, node_id: str) -> int | None:
        """Follow the lazy inputs that the node is expected to want: how many nodes it waits for then; None if it does not ask."""
        lazy = self._traits[node_id].lazy
        if not lazy:
            return None
        node = self._node_of(node_id) if self._wanted is not None and node_id not in self._asked else None
        if node is None or self._wanted is None:
            return None
        self._asked.add(node_id)
        inputs = node.get("inputs", {})
        sources = [inputs[name][0] for name in self._wanted(node_id, node) if name in lazy and is_link(inputs.get(name))]
        for source in sources:
            if not self._has_run(source):
                self.add(source)
                self._block(source, node_id)
        self._queue_touched()
        return self._blockers[node_id] if sources else None

    def _release(self) -> bool:
        """Nothing is ready: let the nodes go on that no pending node blocks. False when there are none (the end, or a cycle)."""
        free, self._held = self._held, []
        self._outside.difference_update(free)
        for node_id in free:
            self._push(node_id)
        return bool(free)
