"""Where the running prompt is: its graph, its timeline, the visit that runs, and what is known of what comes behind it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from ..component import Policy
from ..policies import NodeAsk, policies, with_hints
from ..timeline import EMPTY, Timeline
from ..weights import SAFETENSORS_SUFFIXES, WHOLE_FILE_SUFFIXES
from . import settings
from .live import Ahead, LiveGraph
from .peaks import DevicePeaks
from .teaching import Foresight


class RunningPrompt:
    """One prompt from its begin to its end. The host's lock guards it; the two flags of the queue are set without."""

    def __init__(
        self, prompt_id: str, nodes: Mapping[str, Any], outputs: list[str], chosen: settings.Settings, asks: list[NodeAsk]
    ) -> None:
        self.prompt_id = prompt_id
        self.nodes = nodes  # as queued: without what expands while it runs
        self.outputs = outputs
        self.settings = chosen
        self.asks = asks
        self.graph: LiveGraph | None = None
        self.timeline: Timeline = EMPTY
        self._runs_at: dict[str, int] = {}  # the last visit of each node of this prompt
        self.first_order: tuple[str, ...] = ()  # the nodes that were to run when it began
        self.position = 0
        self.stepped = ""  # the last node whose first step was seen
        self.running = False  # a node, at `position`
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
        self.workflow = _workflow(nodes)

    def take(self, timeline: Timeline) -> None:
        """From here on this is what runs."""
        self.timeline, self.position = with_hints(timeline, self.prompt_id, self.asks), 0
        self._runs_at = {visit.node_id: position for position, visit in enumerate(timeline.visits) if visit.prompt_id == self.prompt_id}

    def follows(self, node_id: str, pending: Container[str]) -> bool:
        """Go on to the node's visit if it is the next one that was foretold; visits of nodes that do not wait to run are passed over."""
        visits = self.timeline.visits
        following = self.position + 1
        while following < len(visits) and visits[following].node_id not in pending and visits[following].prompt_id == self.prompt_id:
            following += 1
        if self.changed or following == len(visits) or visits[following].node_id != node_id:
            return False
        self.position = following
        return True

    def must_replan(self, asked: int | None, pending: Container[str]) -> bool:
        """The running node has been put back and waits for `asked` nodes: whether the order of the rest is another than was foretold.

        Of a node that asks for less, what it does without is passed over; but weights that were to be read for that must not be.
        """
        visits, timeline = self.timeline.visits, self.timeline
        own = visits[self.position]
        if own.asks is None or asked is None or asked > own.asks:
            return True
        if asked == own.asks:
            return False
        first, last = timeline.first_read_number(self.position + 1), timeline.first_read_number(self._runs_at[own.node_id])
        return any(visits[read.position].node_id not in pending for read in timeline.reads[first:last])

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
        """What the node asks for one of its inputs."""
        return next((str(ask.values[name]) for ask in self.asks if ask.node_id == node_id and name in ask.values), default)


def _workflow(nodes: Mapping[str, Any]) -> frozenset[str]:
    """Equal for prompts that run the same nodes with the same weights, whatever their seeds and texts."""
    weights = SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES
    found = set()
    for node_id, node in nodes.items():
        files = sorted(str(value) for value in node["inputs"].values() if isinstance(value, str) and value.lower().endswith(weights))
        found.add(f"{node_id} {node['class_type']} {files}")
    return frozenset(found)
