"""Where the running prompt is: its graph, its timeline, the visit that runs, and what is known of what comes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..component import Policy
from ..timeline import EMPTY, Timeline
from ..weights import SAFETENSORS_SUFFIXES, WHOLE_FILE_SUFFIXES
from . import settings
from .live import Ahead, LiveGraph
from .peaks import DevicePeaks
from .teaching import Foresight


class RunningPrompt:
    """One prompt from its begin to its end. The host's lock guards it; the two flags of the queue are set without."""

    def __init__(self, prompt_id: str, nodes: Mapping[str, Any], outputs: list[str], chosen: settings.Settings) -> None:
        self.prompt_id = prompt_id
        self.nodes = nodes  # as queued: without what expands while it runs
        self.outputs = outputs
        self.settings = chosen
        self.graph: LiveGraph | None = None
        self.timeline: Timeline = EMPTY
        self.first_order: tuple[str, ...] = ()  # the nodes that were to run when it began
        self.position = 0
        self.running = False  # a node, at `position`
        self.changed = False  # the order of the rest
        self.ahead = Ahead()
        self.queue_may_differ = False
        self.look_pending = False
        self.foresights: dict[str, Foresight] = {}  # by prompt id
        self.peaks = DevicePeaks()
        self.next_budget_s = 0.0
        self._next_queue_s = 0.0
        self.workflow = _workflow(nodes)
        self._node_modes = settings.node_modes(nodes)

    def take(self, timeline: Timeline) -> None:
        """From here on this is what runs."""
        self.timeline, self.position = timeline, 0

    def is_next(self, node_id: str) -> bool:
        following = self.position + 1
        visits = self.timeline.visits
        return not self.changed and following < len(visits) and visits[following].node_id == node_id

    def must_look_at_queue(self, now_s: float, every_s: float) -> bool:
        if now_s < self._next_queue_s and not self.queue_may_differ:
            return False
        self.queue_may_differ = False
        self._next_queue_s = now_s + every_s
        return True

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
        return {
            key: Policy(mode, source=f"node {node_id}")
            for node_id, mode in self._node_modes.items()
            for key in self.graph.node_components.get(node_id, ())
        }


def _workflow(nodes: Mapping[str, Any]) -> frozenset[str]:
    """Equal for prompts that run the same nodes with the same weights, whatever their seeds and texts."""
    weights = SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES
    found = set()
    for node_id, node in nodes.items():
        files = sorted(str(value) for value in node["inputs"].values() if isinstance(value, str) and value.lower().endswith(weights))
        found.add(f"{node_id} {node['class_type']} {files}")
    return frozenset(found)
