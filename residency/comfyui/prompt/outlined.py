"""A prompt that nobody has queued: its nodes in order, and the components that each computes with.

Looks at files: not for the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...core.component import Component
from ...graph import NODE_OPERATIONS, OPERATIONS, Allowance, computes, likely, predict_order
from ...units import printable, without_folders
from .model_files import Folders, loads_now
from .node_classes import traits
from .queued import whole_nodes


@dataclass(frozen=True, slots=True)
class Outlined:
    """`order`: ids of the nodes that would run; `computes` and `loads`: component keys by node id; `warnings`: a sentence for each thing
    that cannot be used; files are named, their folders are not."""

    nodes: Mapping[str, Any]
    order: tuple[str, ...]
    computes: Mapping[str, tuple[str, ...]]
    loads: Mapping[str, tuple[str, ...]]
    components: Mapping[str, Component]
    warnings: tuple[str, ...]

    def used(self) -> list[Component]:
        """The components that are computed with, in the order of their first use."""
        keys = dict.fromkeys(key for node_id in self.order for key in self.computes.get(node_id, ()))
        return [self.components[key] for key in keys if key in self.components]

    def why_nothing(self) -> str:
        """Why nothing is used, where that is so, in one sentence."""
        if not self.warnings:
            return "none of its nodes computes with a model that is here"
        others = len(self.warnings) - 1
        return self.warnings[0] + (f", and {others} more" if others else "")

    def of_nodes(self) -> dict[str, frozenset[str]]:
        """Keys of the components that each node loads or computes with."""
        return {one: frozenset(self.loads.get(one, ())).union(self.computes.get(one, ())) for one in self.order}


class _NotedFolders(Folders):
    """`found`: the paths of all that has been resolved."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def resolve(self, class_type: str, input_name: str, value: object) -> str | None:
        path = super().resolve(class_type, input_name, value)
        if path is not None:
            self.found.add(path)
        return path


def outlined(prompt: Any) -> Outlined:
    """As far as its classes are installed and its files are there. Raises AllowanceError for a graph that takes too long."""
    nodes = whole_nodes(prompt)
    allowance = Allowance(OPERATIONS + NODE_OPERATIONS * len(nodes))
    folders = _NotedFolders()
    found = {node_id: loads_now(node["class_type"], node["inputs"], folders) for node_id, node in nodes.items()}
    components = {component.key: component for loads in found.values() for component, _ in loads.components}
    keyed = {node_id: tuple((component.key, kind) for component, kind in loads.components) for node_id, loads in found.items()}
    loaded = {node_id: tuple(dict.fromkeys(key for key, _ in pairs)) for node_id, pairs in keyed.items()}
    outputs = [node_id for node_id, node in nodes.items() if (own := traits(node["class_type"])) is not None and own.is_output]
    order = predict_order(nodes, outputs, traits, wanted=likely(nodes.get, traits), allowance=allowance)
    computed = computes(nodes, list(nodes), traits, keyed, allowance=allowance)
    warnings = [without_folders(warning, folders.found) for loads in found.values() for warning in loads.warnings]
    warnings += [
        f"node {printable(node_id)}: the class {printable(node['class_type'])} is not installed"
        for node_id, node in nodes.items()
        if traits(node["class_type"]) is None
    ]
    return Outlined(nodes, tuple(order), computed, loaded, components, tuple(warnings))
