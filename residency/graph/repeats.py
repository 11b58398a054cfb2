"""The nodes of a prompt that an earlier one has run: ComfyUI answers for them from its cache."""

from __future__ import annotations

from collections.abc import Mapping

from .traits import Node, links


def unchanged(nodes: Mapping[str, Node], before: Mapping[str, Node]) -> frozenset[str]:
    """Ids of the nodes whose class and inputs are those that `before` has under the same id, all the way up. Linear in nodes and links.

    Whatever a node class itself says of its results (ComfyUI's IS_CHANGED) is not known here.
    """
    different = [node_id for node_id, node in nodes.items() if not _same(node, before.get(node_id))]
    below: dict[str, list[str]] = {}
    for node_id, node in nodes.items():
        for _, source, _ in links(node):
            below.setdefault(source, []).append(node_id)
    found = set(different)
    while different:
        for node_id in below.get(different.pop(), ()):
            if node_id not in found:
                found.add(node_id)
                different.append(node_id)
    return frozenset(nodes.keys() - found)


def _same(node: Node, other: Node | None) -> bool:
    return other is not None and node["class_type"] == other["class_type"] and node["inputs"] == other["inputs"]
