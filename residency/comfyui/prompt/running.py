"""The running prompt as ComfyUI knows it: its graph, its order, its settings, and the queue behind it. Its place the session knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from ...core.component import Policy
from ...core.timeline import EMPTY, Timeline
from ...settings.node_policies import NodeAsk, policies, with_hints
from ...settings.prompt import Settings
from ...weights.components import SAFETENSORS_SUFFIXES, WHOLE_FILE_SUFFIXES
from .decoders import Decoders
from .live_graph import LiveGraph
from .profiling import Foresight
from .queued import Ahead
from .working_set import DevicePeaks


class RunningPrompt:
    """One prompt from its begin to its end. The execution's lock guards it; the two flags of the queue are set without."""

    def __init__(self, prompt_id: str, nodes: Mapping[str, Any], outputs: list[str], chosen: Settings, asks: list[NodeAsk]) -> None:
        self.prompt_id = prompt_id
        self.nodes = nodes  # as queued: without what expands while it runs
        self.outputs = outputs
        self.settings = chosen
        self.asks = asks
        self.graph: LiveGraph | None = None
        self.decoders: Decoders | None = None  # where there is a device with memory of its own
        self.timeline: Timeline = EMPTY
        self.first_order: tuple[str, ...] = ()  # the nodes that were to run when it began
        self.stepped = ""  # the last node whose first step was seen
        self.changed = False  # the order of the rest
        self.ahead = Ahead()
        self.queue_may_differ = False
        self.look_pending = False
        self.kept: set[str] = set()  # components that stay loaded for a queued prompt
        self.unused: dict[Any, list[str]] | None = None  # ComfyUI's cached results of earlier prompts that may go: components by cache key
        self.may_stay: dict[Any, bool] = {}  # of those whose models are needed again: whether their files are still the same
        self.execution_list: Any = None
        self.foresights: dict[str, Foresight] = {}  # by prompt id
        self.peaks = DevicePeaks()
        self.next_budget_s = 0.0
        self._next_queue_s = 0.0

    @cached_property
    def workflow(self) -> frozenset[str]:
        """Equal for prompts that run the same nodes with the same weights, whatever their seeds and texts."""
        return _workflow(self.nodes)

    def take(self, timeline: Timeline) -> None:
        """Take the order of the nodes left, with the nodes' own hints."""
        self.timeline = with_hints(timeline, self.prompt_id, self.asks)

    def must_look_at_queue(self, now_s: float, every_s: float) -> bool:
        if now_s < self._next_queue_s and not self.queue_may_differ:
            return False
        self.queue_may_differ = False
        self._next_queue_s = now_s + every_s
        return True

    def has_not_foretold(self) -> bool:
        """Whether the profiles have yet to be asked about the running or a queued prompt."""
        return any(prompt_id not in self.foresights for prompt_id in (self.prompt_id, *(queued[0] for queued in self.ahead.queue)))

    def not_foretold(self) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Iterable[str]]]]:
        """Nodes, and components by node, of the running and the queued prompts that nobody has asked the profiles about."""
        assert self.graph is not None
        unknown: dict[str, tuple[Mapping[str, Any], Mapping[str, Iterable[str]]]] = {}
        if self.prompt_id not in self.foresights:
            unknown[self.prompt_id] = (self.graph.nodes(), dict(self.graph.node_components))
        for prompt_id, nodes, _ in self.ahead.queue:
            used = self.graph.components_ahead(prompt_id)
            if prompt_id not in self.foresights and used is not None:
                unknown[prompt_id] = (nodes, used)
        return unknown

    def policies(self) -> dict[str, Policy]:
        assert self.graph is not None
        found = self.graph.components
        sizes = {key: found[key].size_bytes for key in (*self.timeline.components(), *found) if key in found}
        return policies(self.asks, self.graph.node_components, sizes, self.settings.source)

    def value(self, node_id: str, name: str, default: str) -> str:
        """The value that the node asks for in one of its inputs, else `default`."""
        return next((str(ask.values[name]) for ask in self.asks if ask.node_id == node_id and name in ask.values), default)


def _workflow(nodes: Mapping[str, Any]) -> frozenset[str]:
    weights = SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES
    found = set()
    for node_id, node in nodes.items():
        files = sorted(str(value) for value in node["inputs"].values() if isinstance(value, str) and value.lower().endswith(weights))
        found.add(f"{node_id} {node['class_type']} {files}")
    return frozenset(found)
