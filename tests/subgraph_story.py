"""Small workflows with a subgraph whose widgets are shown by its instance, as newer and older editors save them."""

from __future__ import annotations

from typing import Any

LATENT = {"name": "LATENT", "type": "LATENT"}


def node(node_id: int, kind: str, inputs: list[dict[str, Any]], values: Any = None, **fields: Any) -> dict[str, Any]:
    """A node with the output that its neighbours here read; `kind` is a class or the id of a subgraph."""
    place = {"pos": [40 * node_id, 0], "size": [200, 100], "flags": {}, "order": node_id, "mode": 0, "properties": {}}
    found = {"id": node_id, "type": kind, **place, "inputs": inputs, "outputs": [{**LATENT, "links": []}], **fields}
    return found if values is None else found | {"widgets_values": values}


def slot(name: str, kind: str, link: int | None = None) -> dict[str, Any]:
    """An input; a type in lower case is a widget's."""
    found = {"name": name, "type": kind.upper(), "link": link}
    return found | {"widget": {"name": name}} if kind.islower() else found


def link(link_id: int, origin: int, origin_slot: int, target: int, target_slot: int, kind: str = "LATENT") -> dict[str, Any]:
    ends = {"origin_id": origin, "origin_slot": origin_slot, "target_id": target, "target_slot": target_slot}
    return {"id": link_id, **ends, "type": kind}


def definition(name: str, inputs: list[tuple[str, str, list[int]]], out: int, nodes: list[Any], links: list[Any]) -> dict[str, Any]:
    """A subgraph with one output, over the link `out`; `inputs` are (name, type, links)."""
    ends = [{"id": f"{name}-{n}", "name": n, "type": kind, "linkIds": ids, "pos": [0, 0]} for n, kind, ids in inputs]
    sides = {"inputNode": {"id": -10, "bounding": [0, 0, 100, 100]}, "outputNode": {"id": -20, "bounding": [900, 0, 100, 100]}}
    output = [{"id": f"{name}-out", **LATENT, "linkIds": [out], "pos": [0, 0]}]
    return {"id": name, "version": 1, "name": name, "revision": 0, "config": {}, "groups": [], "widgets": [], **sides} | {
        "state": {"lastGroupId": 0, "lastNodeId": 20, "lastLinkId": 20, "lastRerouteId": 0},
        "inputs": ends,
        "outputs": output,
        "nodes": nodes,
        "links": links,
    }


SIZE = "0b1d2f4e-1111-4222-8333-444455556666"
OUTER = "0b1d2f4e-1111-4222-8333-444455557777"


def size(linked: bool) -> dict[str, Any]:
    """An empty latent of 64 x 64 pixels; its width is the subgraph's input where `linked`."""
    inner = node(5, "EmptyLatentImage", [slot("width", "int", 1 if linked else None), slot("height", "int"), slot("batch_size", "int")])
    inner["widgets_values"] = [64, 64, 1]
    links = [link(2, 5, 0, -20, 0)] + ([link(1, -10, 0, 5, 0, "INT")] if linked else [])
    return definition(SIZE, [("width", "INT", [1])] if linked else [], 2, [inner], links)


def workflow(instance: dict[str, Any], *definitions: dict[str, Any]) -> dict[str, Any]:
    """An instance whose latent is saved."""
    instance["outputs"][0]["links"] = [9]
    save = node(9, "SaveLatent", [slot("samples", "LATENT", 9), slot("filename_prefix", "string")], ["x"])
    root = {"nodes": [instance, save | {"outputs": []}], "links": [[9, instance["id"], 0, 9, 0, "LATENT"]], "groups": [], "extra": {}}
    return {**root, "last_node_id": 20, "last_link_id": 20, "config": {}, "version": 0.4, "definitions": {"subgraphs": list(definitions)}}


def linked(values: Any = None, **fields: Any) -> dict[str, Any]:
    """Newer editors: the widget is an input, its value the instance's."""
    return workflow(node(7, SIZE, [slot("width", "int")], values, **fields), size(True))


def listed(proxies: list[list[str]], values: Any) -> dict[str, Any]:
    """Older editors: the instance lists the widgets that it shows."""
    return workflow(node(7, SIZE, [], values, properties={"proxyWidgets": proxies}), size(False))


def in_another(outer_values: Any, inner_values: Any) -> dict[str, Any]:
    """The instance inside a second subgraph, whose instance shows the same widget."""
    inner = node(2, SIZE, [slot("width", "int", 1)], inner_values)
    outer = definition(OUTER, [("width", "INT", [1])], 2, [inner], [link(1, -10, 0, 2, 0, "INT"), link(2, 2, 0, -20, 0)])
    return workflow(node(7, OUTER, [slot("width", "int")], outer_values), size(True), outer)


NOT_PLACED = {"originalEntry": ["-1", "width"], "reason": "missingSubgraphInput", "hostValue": 96, "attemptedAtVersion": 1}

HOLE = "a hole in the list leaves the value inside"

STORIES: dict[str, tuple[dict[str, Any], int, int]] = {
    # name: workflow, width and height that the editor queues
    "the instance's value wins": (linked(values=[96]), 96, 64),
    "without one the value inside stays": (linked(), 64, 64),
    "an instance without a list of inputs": (workflow(node(7, SIZE, [], [96]), size(True)), 96, 64),
    "listed by inner node": (listed([["5", "height"], ["5", "width"]], [80, 96]), 96, 80),
    HOLE: (listed([["5", "height"], ["5", "width"]], [None, 96]), 96, 64),
    "an older name with its node": (listed([["5", "5: width"]], [96]), 96, 64),
    "listed where it is linked": (
        workflow(
            node(7, SIZE, [slot("width", "int")], [32, 96], properties={"proxyWidgets": [["5", "height"], ["5", "width"]]}), size(True)
        ),
        96,
        32,
    ),
    "listed as the instance's own": (
        workflow(
            node(7, SIZE, [slot("width", "int")], [32, 96], properties={"proxyWidgets": [["5", "height"], ["-1", "width"]]}), size(True)
        ),
        96,
        32,
    ),
    "once not placed, kept by name": (linked(values=[32], properties={"proxyWidgetErrorQuarantine": [NOT_PLACED]}), 96, 64),
    "of two instances the outer": (in_another([96], [80]), 96, 64),
    "of two instances the one that has a value": (in_another(None, [80]), 80, 64),
}
