"""Workflows between ComfyUI's own nodes and this pack's twins of them: API prompts and the editor's files, subgraphs included.

Pure functions on parsed JSON; the argument is not changed. Back and forth gives the same workflow: settings of a twin wait in the node's
properties (`residency`) until it is converted again.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ..graph import is_link
from ..settings.node_inputs import INPUTS, MODE_NODE, PASSING, PREFIX, REPORT_NODE, Family, Value, family, wrapped_id
from .core_nodes import core_nodes
from .editor_graph import UiGraph, graphs

_KEPT = "residency"  # in a node's properties


@dataclass(frozen=True, slots=True)
class Converted:
    """The workflow, how many of its nodes are others now, and a line for each thing that could not be carried over."""

    data: dict[str, Any]
    changed: int
    notes: tuple[str, ...] = ()


def to_residency(data: dict[str, Any], available: Collection[str]) -> Converted:
    """Each core node that has a twin among the `available` class names becomes that twin, with the settings it had before or none.

    Raises UiError for an editor's file whose parts have other shapes than the editor saves; so does `to_core`.
    """
    data = copy.deepcopy(data)
    changed = 0
    for node, key in _nodes(data):
        core_id = str(node[key])
        kind = _family(core_id)
        if kind is not None and wrapped_id(core_id) in available:
            node[key] = wrapped_id(core_id)
            changed += 1
            if key == "type":
                _add_settings(node, kind)
    return Converted(data, changed)


def to_core(data: dict[str, Any], available: Collection[str]) -> Converted:
    """Each twin becomes its core node where that is among the `available` class names; the pack's other nodes go.

    Values that flow through a policy, keep, release or prefetch node flow past it. Nodes that show a report go with the report.
    """
    data = copy.deepcopy(data)
    notes: list[str] = []
    if isinstance(data.get("nodes"), list):
        changed = sum(_graph_to_core(UiGraph(graph), available, notes) for graph in graphs(data))
    else:
        changed = _prompt_to_core(_prompt(data), available, notes)
    return Converted(data, changed, tuple(notes))


def _core_of(own_id: str, available: Collection[str], notes: list[str]) -> tuple[str, Family] | None:
    """The core node behind a twin, and its family; None for every other node, and for a twin whose core node is missing."""
    core_id = own_id.removeprefix(PREFIX)
    kind = _family(core_id) if own_id.startswith(PREFIX) else None
    if kind is None:
        return None
    if core_id not in available:
        notes.append(f"{own_id}: this ComfyUI has no {core_id}; the node is left as it is")
        return None
    return core_id, kind


def _family(core_id: str) -> Family | None:
    core = core_nodes().get(core_id)
    return None if core is None else family(core.sockets.values(), core.traits.outputs, core.folders.values())


def _prompt(data: dict[str, Any]) -> dict[str, Any]:
    inner = data.get("prompt")
    return inner if isinstance(inner, dict) and "class_type" not in inner else data


def _nodes(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each node with the key of its class name: "type" in the editor's files, "class_type" in prompts."""
    if isinstance(data.get("nodes"), list):
        for graph in graphs(data):
            yield from ((node, "type") for node in graph["nodes"] if isinstance(node.get("type"), str))
    else:
        nodes = _prompt(data).values()
        yield from ((node, "class_type") for node in nodes if isinstance(node, dict) and isinstance(node.get("class_type"), str))


# --- one node of the editor's files ---


def _add_settings(node: dict[str, Any], kind: Family) -> None:
    properties = node.get("properties")
    kept: dict[str, Value] = {}
    if isinstance(properties, dict):
        before = properties.pop(_KEPT, None)
        kept = before if isinstance(before, dict) else {}
        if properties.get("Node name for S&R") == node["type"].removeprefix(PREFIX):
            properties["Node name for S&R"] = node["type"]
    settings = {name: kept.get(name, rule.default) for name, rule in INPUTS[kind].items()}
    values = node.get("widgets_values")
    if isinstance(values, list):
        values.extend(settings.values())
    elif isinstance(values, dict):
        values.update(settings)
    elif kept:
        node["widgets_values"] = list(settings.values())
    inputs = node.get("inputs")
    if isinstance(inputs, list) and any("widget" in slot for slot in inputs):
        inputs.extend(
            {"name": name, "type": _widget_type(rule.default), "widget": {"name": name}, "link": None}
            for name, rule in INPUTS[kind].items()
        )


def _drop_settings(node: dict[str, Any], core_id: str, kind: Family) -> None:
    values = node.get("widgets_values")
    own: dict[str, Any] = {}
    if isinstance(values, list):
        count = core_nodes()[core_id].count(values)
        own = dict(zip(INPUTS[kind], values[count:], strict=False))
        node["widgets_values"] = values[:count]
    elif isinstance(values, dict):
        own = {name: values.pop(name) for name in INPUTS[kind] if name in values}
    properties = node.get("properties")
    said = {name: value for name, value in own.items() if value != INPUTS[kind][name].default}
    if isinstance(properties, dict):
        if properties.get("Node name for S&R") == wrapped_id(core_id):
            properties["Node name for S&R"] = core_id
        if said:
            properties[_KEPT] = said


def _widget_type(default: Value) -> str:
    if isinstance(default, bool):
        return "BOOLEAN"
    return "COMBO" if isinstance(default, str) else "INT" if isinstance(default, int) else "FLOAT"


# --- the pack's nodes that have no core node ---


def _graph_to_core(graph: UiGraph, available: Collection[str], notes: list[str]) -> int:
    changed = 0
    for node in graph.nodes():
        own_id = str(node.get("type"))
        twin = _core_of(own_id, available, notes)
        if twin is not None:
            node["type"] = twin[0]
            _drop_settings(node, *twin)
            graph.drop_inputs(node, frozenset(INPUTS[twin[1]]))
        elif own_id in PASSING:
            graph.splice(node, "value")
        elif own_id == MODE_NODE:
            graph.remove(node)
        elif own_id == REPORT_NODE:
            gone = graph.remove_with_readers(node)
            notes.extend(f"node {other['id']} ({other['type']}) showed the report and goes with it" for other in gone[1:])
        else:
            continue
        changed += 1
    return changed


def _prompt_to_core(prompt: dict[str, Any], available: Collection[str], notes: list[str]) -> int:
    def kind(node_id: object) -> str:
        node = prompt.get(str(node_id))
        return str(node.get("class_type")) if isinstance(node, dict) else ""

    def behind(value: Any) -> Any:
        """The value or link at a link's end once the pack's nodes are gone; None: nothing."""
        seen = set()
        while is_link(value) and kind(value[0]) in PASSING:
            if value[0] in seen:
                return None
            seen.add(value[0])
            value = prompt[value[0]].get("inputs", {}).get("value")
        return value

    gone = {node_id for node_id in prompt if kind(node_id) in (MODE_NODE, REPORT_NODE) or kind(node_id) in PASSING}
    changed = len(gone)
    for node, key in _nodes(prompt):
        twin = _core_of(node[key], available, notes)
        if twin is not None:
            node[key] = twin[0]
            node["inputs"] = {name: value for name, value in node.get("inputs", {}).items() if name not in INPUTS[twin[1]]}
            changed += 1
    reports = {node_id for node_id in prompt if kind(node_id) == REPORT_NODE}
    for node_id, node in prompt.items():
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict) and node_id not in gone:
            found = {name: behind(value) for name, value in node["inputs"].items()}
            node["inputs"] = {name: value for name, value in found.items() if value is not None or node["inputs"][name] is None}
    while True:
        readers = [node_id for node_id in prompt if node_id not in gone and _reads(prompt[node_id], reports)]
        if not readers:
            break
        notes.extend(f"node {node_id} ({kind(node_id)}) showed the report and goes with it" for node_id in readers)
        gone.update(readers)
        reports.update(readers)
    for node_id in gone:
        del prompt[node_id]
    return changed


def _reads(node: Any, sources: set[str]) -> bool:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return isinstance(inputs, dict) and any(is_link(value) and value[0] in sources for value in inputs.values())
