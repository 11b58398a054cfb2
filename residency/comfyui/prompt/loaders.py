"""The components that loader nodes load: of a result in ComfyUI's cache as they were when it was made, of all other nodes as their files'
headers say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...core.component import Component, FileIdentity
from ...graph.traits import links
from ...weights.components import NodeLoads
from .model_files import Folders, loads_now
from .origins import result_key

log = logging.getLogger("residency")

# class -> link types that its files hold, that it could make, and that a run has shown it does not make
_not_made: dict[str, frozenset[str]] = {}


def makes_none(class_type: str, kinds: frozenset[str]) -> None:
    """A loader that could have made models of these link types has made none: from now on its class is not expected to."""
    if kinds:
        _not_made[class_type] = _not_made.get(class_type, frozenset()) | kinds


class Loaders:
    """The loads of one running prompt's nodes and of those queued behind it. `components` has all that were found, by key.

    `made_with(key, outputs)`: the loads that a result in ComfyUI's cache was made of, even where their files are others now; None where
    that is not known.
    """

    def __init__(self, made_with: Callable[[Any, Any], NodeLoads | None]) -> None:
        self.components: dict[str, Component] = {}
        self._made_with = made_with
        self._folders = Folders()
        self._made: list[tuple[Mapping[str, Any], NodeLoads]] = []  # of nodes that are cached: queued prompts may have the same

    def cached(self, execution_list: Any, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, NodeLoads]:
        """Loads of those of the nodes whose results are cached, by node id."""
        found: dict[str, NodeLoads] = {}
        for node_id, node in nodes.items():
            result = execution_list.output_cache.get_local(node_id)
            made = None if result is None else self._made_with(result_key(execution_list, node_id), result.outputs)
            if made is not None:
                found[node_id] = made = self._known(node["class_type"], made)
                if not any(links(node)):  # what a node with links has loaded may be another prompt's as well
                    self._made.append((node, made))
        return found

    def of(self, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, NodeLoads]:
        """Loads of the nodes, by node id: of a cached node with the same inputs, else from their files."""
        found: dict[str, NodeLoads] = {}
        for node_id, node in nodes.items():
            loads = self._same(node) or loads_now(node["class_type"], node["inputs"], self._folders)
            for warning in loads.warnings:
                log.warning("residency: node %s (%s): %s; it is left to ComfyUI", node_id, node["class_type"], warning)
            found[node_id] = self._known(node["class_type"], loads)
        return found

    def _same(self, node: Mapping[str, Any]) -> NodeLoads | None:
        for one, made in self._made:
            if one["class_type"] == node["class_type"] and one["inputs"] == node["inputs"]:
                return made
        return None

    def files(self, loads: Iterable[NodeLoads]) -> tuple[FileIdentity, ...]:
        """The files that nodes will read for these loads; for those of a cached result nothing is read."""
        made = {id(one) for _, one in self._made}
        return tuple(file for one in loads if id(one) not in made for component, _ in one.components for file in component.files)

    def _known(self, class_type: str, loads: NodeLoads) -> NodeLoads:
        """Without the kinds that a run has shown the class not to make of its files."""
        if not loads.components:
            return loads
        unmade = _not_made.get(class_type, frozenset())
        made = tuple((component, kind) for component, kind in loads.components if kind not in unmade)
        self.components.update((component.key, component) for component, _ in made)
        return loads if len(made) == len(loads.components) else replace(loads, components=made)
