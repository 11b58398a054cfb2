"""The graph of the running prompt as plain data for the core: the components of its nodes, and the timeline of the nodes left to run, with
the queued prompts behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from ...core.component import Component, FileIdentity
from ...core.timeline import Timeline, Use, UseKind, Visit
from ...graph import (
    NODE_OPERATIONS,
    OPERATIONS,
    Allowance,
    AllowanceError,
    Flow,
    Grouping,
    Turn,
    computes,
    likely,
    predict_order,
    predict_turns,
)
from ...graph.grouping import FEEDS_OUTPUT, REST, URGENT
from ...graph.traits import links
from ...settings.node_inputs import PASSING
from ...weights.components import NodeLoads
from ...weights.identity import first_change
from .loaders import Loaders, makes_none
from .node_classes import traits
from .queued import NOTHING_QUEUED, REPETITION, Ahead, whole_nodes
from .uses import Uses, read_once


class _Cached:
    """The nodes whose results the executor holds, asked one by one: the cache lists them only by signature."""

    def __init__(self, execution_list: Any) -> None:
        self._is_cached = execution_list.is_cached

    def __contains__(self, node_id: object) -> bool:
        return bool(self._is_cached(node_id))


@dataclass(frozen=True, slots=True)
class Expected:
    """Expectations of earlier runs for one node: seconds of computing, and bytes on the device beside the weights (0: nothing known)."""

    compute_s: float = 0.0
    working_set_bytes: int = 0


_UNKNOWN = Expected()


@dataclass(frozen=True, slots=True)
class _Outline:
    """A prompt that does not run yet: node ids in order, component keys by node that they are loaded and computed with. `files`: those
    that its nodes will read, as they were when this was drawn."""

    order: tuple[str, ...]
    loads: Mapping[str, tuple[str, ...]]
    computes: Mapping[str, tuple[str, ...]]
    files: tuple[FileIdentity, ...]

    def node_components(self) -> dict[str, frozenset[str]]:
        return {node_id: frozenset(self.loads.get(node_id, ())).union(self.computes.get(node_id, ())) for node_id in self.order}


def _is_loaded_by(use: Use, earlier: Container[str]) -> bool:
    return use.kind is UseKind.LOAD and use.component in earlier


def _keyed(loads: NodeLoads) -> tuple[tuple[str, str | None], ...]:
    return tuple((component.key, kind) for component, kind in loads.components)


@dataclass(frozen=True, slots=True)
class Budget:
    """The cost of predicting one prompt, at most: operations and seconds of CPU time, so many and so many more for each of its nodes. Past
    either the pack stands aside."""

    operations: int = OPERATIONS
    node_operations: int = NODE_OPERATIONS
    floor_s: float = 0.5
    node_s: float = 0.004


DEFAULT_BUDGET = Budget()


class LiveGraph:
    """The graph of one running prompt: its components once, its timeline as often as the order or the queue changes.

    Made on the executor thread. `expected` holds forecasts, by prompt and node id, `estimated` the working sets that stand in for them;
    both may be filled at any time. With a `group_within_bytes`, the room on the device, nodes that share models go one after the other
    where they do not all fit.
    """

    def __init__(
        self,
        prompt_id: str,
        dynprompt: Any,
        group_within_bytes: int | None = None,
        is_loaded: Callable[[str], bool] = lambda key: False,
        made_with: Callable[[Any, Any], NodeLoads | None] = lambda key, outputs: None,
        budget: Budget = DEFAULT_BUDGET,
    ) -> None:
        """`is_loaded(key)`: whether a model of the component is alive. `made_with(key, outputs)`: the loads that a result in ComfyUI's
        cache was made of, even where their files are others now. Every prediction raises AllowanceError where `budget` does not allow
        it."""
        self.prompt_id = prompt_id
        self._loaders = Loaders(made_with)
        self.components: dict[str, Component] = self._loaders.components  # of the queued prompts as well
        self._uses = Uses(self.components)
        self.node_components: dict[str, frozenset[str]] = {}  # node id -> what it loads or computes with
        self.expected: dict[tuple[str, str], Expected] = {}
        self.estimated: dict[str, int] = {}  # working sets of this prompt's nodes, where no run has told: bytes by node id
        self.dropped: set[str] = set()  # components that were loaded when this prompt began, and are no longer
        self._is_loaded = is_loaded
        self._dynprompt = dynprompt
        self._nodes: dict[str, Any] = {}  # those that have been looked at, expanded ones included
        self._at_first: dict[str, Any] = {}  # the same as they were the first time
        self._flowing: dict[str, Any] = {}  # the same with the links that a loop has taken from them
        self._expanded = 0  # how many of them were
        self._loads: dict[str, NodeLoads] = {}
        self._keyed: dict[str, tuple[tuple[str, str | None], ...]] = {}  # the same as component keys, each with its output type
        self._computes: dict[str, tuple[str, ...]] = {}
        self._budget = budget
        self._predicting_s = 0.0
        self._allowance = Allowance(budget.operations)
        self._flow = Flow(self._flowing, traits, self._keyed, allowance=self._allowance)
        self._asked: set[str] = set()  # nodes that were started and put back
        self._group_within_bytes = group_within_bytes
        self._grouping: Grouping | None = None
        self._computed_with: set[str] = set()
        self._outlines: dict[str, _Outline] = {}

    def loads_of(self, node_id: str) -> tuple[tuple[Component, str | None], ...]:
        """The components that a node loads, each with the output type that carries it."""
        loads = self._loads.get(node_id)
        return loads.components if loads else ()

    def makes_none(self, node_id: str, kinds: frozenset[str]) -> None:
        """A loader that could have made models of these link types has made none: from now on its class is not expected to."""
        makes_none(self.class_type(node_id), kinds)

    def node_loads(self, node_id: str) -> NodeLoads:
        """The same with the warnings."""
        return self._loads[node_id]

    def look_at_files(self, node_id: str) -> bool:
        """A node is about to run: whether it loads other files than the timeline says. Then the next timeline tells of those."""
        loads = self.loads_of(node_id)
        if not loads or first_change(file for component, _ in loads for file in component.files) is None:
            return False
        del self._loads[node_id]
        self._forget_nodes()
        return True

    def _forget_nodes(self) -> None:
        """Look at every node again, and at the loads of those that are others now."""
        self._loads = {node_id: found for node_id, found in self._loads.items() if self._node(node_id) == self._nodes.get(node_id)}
        for known in (self._nodes, self._flowing, self._keyed, self._computes):
            known.clear()
        self._computed_with.clear()
        self._flow = Flow(self._flowing, traits, self._keyed, allowance=self._allowance)
        self._expanded = 0

    def class_type(self, node_id: str) -> str:
        """The class of a node of this prompt, expanded subgraphs included."""
        return str(self._dynprompt.get_node(node_id)["class_type"])

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        """Widget values and links of a node of this prompt."""
        return dict(self._dynprompt.get_node(node_id)["inputs"])

    def nodes(self) -> dict[str, Any]:
        """Every node of this prompt in API format, expanded ones included."""
        return whole_nodes({node_id: self._dynprompt.get_node(node_id) for node_id in self._dynprompt.all_node_ids()})

    def components_ahead(self, prompt_id: str) -> dict[str, frozenset[str]] | None:
        """Node id -> component keys of a queued prompt; None before a timeline has run on into it."""
        outline = self._outlines.get(prompt_id)
        return None if outline is None else outline.node_components()

    def chooses(self, changed: bool) -> bool:
        """Whether `choose` may give another node than ComfyUI's own."""
        return self._grouping is not None or (changed and self._group_within_bytes is not None)

    def choose(self, execution_list: Any, node_list: list[str], own: str, changed: bool) -> str:
        """The node of `node_list`, all of them ready, to run next; `own` is ComfyUI's choice. `changed`: nodes may have been added."""
        if changed:
            self._refresh(execution_list)
        if self._grouping is None:
            return own
        return self._grouping.choose(own, node_list, partial(self._rank, execution_list.blocking))

    def ran(self, node_id: str) -> None:
        """The node has run to its end."""
        if self._grouping is not None:
            self._grouping.ran(node_id)

    def put_back(self, node_id: str) -> None:
        """The node has asked for its lazy inputs, or has started something that it waits for."""
        self._asked.add(node_id)

    def _rank(self, blocking: Mapping[str, Iterable[str]], node_id: str) -> int:
        own = traits(self.class_type(node_id))
        if own is not None and (own.is_output or own.is_async):
            return URGENT
        fed = (traits(self.class_type(target)) for target in blocking[node_id])
        return FEEDS_OUTPUT if any(target is not None and target.is_output for target in fed) else REST

    def timeline(self, execution_list: Any, ahead: Ahead = NOTHING_QUEUED) -> Timeline:
        """The visits that are left, in the order in which the executor will choose them, then those behind. On the executor thread."""
        self._refresh(execution_list)
        turns = self._turns(execution_list)
        visits = [self._visit(self.prompt_id, node_id, self.class_type(node_id), asks) for node_id, asks in turns]
        uses: list[Use] = []
        for position, (node_id, asks) in enumerate(turns):
            if asks is None:
                loads, computed = self._keyed.get(node_id, ()), self._computes.get(node_id, ())
                if loads or computed:
                    uses += self._uses.at(position, [key for key, _ in loads], computed)
        return self._run_on(visits, read_once(uses), ahead)

    def _turns(self, execution_list: Any) -> list[Turn]:
        started_s = time.thread_time()  # what others take of the machine is no fault of the graph's
        turns = predict_turns(
            execution_list.pendingNodes,
            execution_list.blockCount,
            execution_list.blocking,
            self._node,
            traits,
            cached=_Cached(execution_list),
            wanted=likely(self._node, traits),
            grouping=self._grouping,
            allowance=self._allowance,
            asked=self._asked,
        )
        self._predicting_s += time.thread_time() - started_s
        limit_s = self._budget.floor_s + self._budget.node_s * len(self._nodes)
        if self._predicting_s > limit_s:
            raise AllowanceError(f"predicting the order took {self._predicting_s:.2f} s, more than {limit_s:.2f} s")
        return turns

    def continued(self, timeline: Timeline, position: int, ahead: Ahead) -> Timeline:
        """The same order from `position` on, its expectations as they are known now, with something else behind. On any thread."""
        own = [visit for visit in timeline.visits[position:] if visit.prompt_id == self.prompt_id]
        visits = [self._visit(visit.prompt_id, visit.node_id, visit.class_type, visit.asks) for visit in own]
        uses = [
            replace(use, position=use.position - position) for use in timeline.uses if position <= use.position < position + len(visits)
        ]
        return self._run_on(visits, uses, ahead)

    def _run_on(self, visits: list[Visit], uses: list[Use], ahead: Ahead) -> Timeline:
        seen = {use.component for use in uses}.union(*self.node_components.values())
        for prompt_id, prompt, outputs in ahead.queue:
            later = read_once(self._uses_of(prompt_id, prompt, outputs, len(visits)))
            # the earlier prompt leaves it loaded, and its loader node cached; what computing needs is read again as far as it is lost
            uses += [replace(use, reads=False) if self._stays(use) or _is_loaded_by(use, seen) else use for use in later]
            visits += self._visits_of(prompt_id, prompt)
            seen |= {use.component for use in later}
        if ahead.repetition is None or not self.components:  # who loads nothing keeps nothing for the next time
            return Timeline(tuple(visits), tuple(uses))
        prompt_id, prompt, outputs = ahead.repetition
        # whatever is gone by then is read again: that is what keeping it saves
        again = self._uses_of(prompt_id, prompt, outputs, len(visits))
        return Timeline((*visits, *self._visits_of(prompt_id, prompt)), (*uses, *again), expected_from=len(visits))

    def _stays(self, use: Use) -> bool:
        """Whether an earlier prompt has loaded it, so that its loader node will not run."""
        return use.kind is UseKind.LOAD and use.component not in self.dropped and self._is_loaded(use.component)

    def _visit(self, prompt_id: str, node_id: str, class_type: str, asks: int | None = None) -> Visit:
        expected = self.expected.get((prompt_id, node_id), _UNKNOWN) if asks is None else _UNKNOWN
        own = traits(class_type)
        passes_once = own is not None and own.encodes
        working_set_bytes = expected.working_set_bytes
        if not working_set_bytes and self.estimated and asks is None and prompt_id in (self.prompt_id, REPETITION):
            working_set_bytes = self.estimated.get(node_id, 0)
        return Visit(prompt_id, node_id, class_type, expected.compute_s, working_set_bytes, asks=asks, passes_once=passes_once)

    def _node(self, node_id: str) -> Mapping[str, Any] | None:
        return self._dynprompt.get_node(node_id) if self._dynprompt.has_node(node_id) else None

    def _refresh(self, execution_list: Any) -> None:
        """Look at the loads and uses of the nodes that have come since the last time. Those before them stay as they were."""
        if any((now := self._node(node_id)) is not node and now != node for node_id, node in self._nodes.items()):
            self._forget_nodes()  # a loop has put another node in the place of one
            self.node_components.clear()
        expanded = self._dynprompt.ephemeral_prompt
        new = [*reversed([*islice(reversed(expanded), len(expanded) - self._expanded)])]
        if not self._nodes:
            new = [*self._dynprompt.get_original_prompt(), *new]
        if not new:
            return
        self._expanded = len(expanded)
        self._allowance.grant(self._budget.node_operations * len(new))
        nodes_ = {node_id: self._dynprompt.get_node(node_id) for node_id in new}
        self._nodes.update(nodes_)
        self._flowing.update((node_id, self._kept_links(node_id, node)) for node_id, node in nodes_.items())
        self._loads.update(self._loaders.cached(execution_list, {one: node for one, node in nodes_.items() if one not in self._loads}))
        self._loads.update(self._loaders.of({node_id: node for node_id, node in nodes_.items() if node_id not in self._loads}))
        self._keyed.update((node_id, _keyed(loads)) for node_id in new if (loads := self._loads.get(node_id)) and loads.components)
        for node_id, node in nodes_.items():
            computed = self._flow.computed_by(node_id)
            if computed:
                self._computes[node_id] = computed
                self._computed_with.update(computed)
            used = [*computed, *(key for key, _ in self._keyed.get(node_id, ()))]
            if node["class_type"] in PASSING:
                # a node of ours names what arrives at its own input for that, else what it passes on
                inputs = self._flow.reaching(node_id)
                used = [*(inputs.get("component") or inputs.get("value", ()))] if inputs else used
            if used:
                self.node_components[node_id] = frozenset(used)
        if self._grouping is None:
            # it holds on to what the nodes compute with, which grows
            self._grouping = self._grouped(self._computes, self._computed_with)

    def _kept_links(self, node_id: str, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """The node with the links that it had the first time, where it has no such input any more: the end of a loop is not linked to the
        body while that runs, and hands on the last round's results, of the same models."""
        before = self._at_first.setdefault(node_id, node)
        if before is node or before["class_type"] != node["class_type"]:
            return node
        gone = {name: before["inputs"][name] for name, _, _ in links(before) if name not in node["inputs"]}
        return {**node, "inputs": {**gone, **node["inputs"]}} if gone else node

    def _grouped(self, computed: Mapping[str, tuple[str, ...]], keys: Iterable[str]) -> Grouping | None:
        """The rule for a prompt whose nodes compute with `keys`, where it pays."""
        if self._group_within_bytes is None:
            return None
        grouping = Grouping(computed, self._size_bytes, self._group_within_bytes)
        return grouping if grouping.pays(keys) else None

    def _size_bytes(self, key: str) -> int:
        return self.components[key].size_bytes if key in self.components else 0

    def _outline(self, prompt_id: str, prompt: Mapping[str, Any], outputs: list[str]) -> _Outline:
        known = self._outlines.get(prompt_id)
        if known is None or first_change(known.files) is not None:
            mine = prompt_id == REPETITION  # what this prompt loads is known
            loads = self._loads if mine else self._loaders.of(prompt)
            self._allowance.grant(self._budget.node_operations * len(prompt))
            keyed = self._keyed if mine else {node_id: _keyed(node_loads) for node_id, node_loads in loads.items()}
            loaded = {node_id: tuple(key for key, _ in found) for node_id, found in keyed.items()}
            computed = self._computes if mine else computes(prompt, list(prompt), traits, keyed, allowance=self._allowance)
            keys = self._computed_with if mine else {key for found in computed.values() for key in found}
            grouping, wanted = self._grouped(computed, keys), likely(prompt.get, traits)
            order = predict_order(prompt, outputs, traits, wanted=wanted, grouping=grouping, allowance=self._allowance)
            files = () if mine else self._loaders.files(loads.values())
            self._outlines[prompt_id] = _Outline(tuple(order), loaded, computed, files)
        return self._outlines[prompt_id]

    def _uses_of(self, prompt_id: str, prompt: Mapping[str, Any], outputs: list[str], first: int) -> list[Use]:
        """The uses of a prompt that does not run yet, its first node at position `first`."""
        outline = self._outline(prompt_id, prompt, outputs)
        uses: list[Use] = []
        for position, node_id in enumerate(outline.order, first):
            uses += self._uses.at(position, outline.loads.get(node_id, ()), outline.computes.get(node_id, ()))
        return uses

    def _visits_of(self, prompt_id: str, prompt: Mapping[str, Any]) -> list[Visit]:
        return [self._visit(prompt_id, node_id, prompt[node_id]["class_type"]) for node_id in self._outlines[prompt_id].order]
