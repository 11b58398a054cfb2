"""One graph of an editor's file (the root or a subgraph's definition), with the few changes that keep its links whole."""

from __future__ import annotations

from typing import Any

_SUBGRAPH_INPUT, _SUBGRAPH_OUTPUT = -10, -20
_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")

Link = Any  # a list [id, origin, slot, target, slot, type] at the root, an object in subgraphs


class UiGraph:
    """Changes the parsed JSON in place. A link is listed three times: in `links`, at the output it leaves, at the input it enters."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self._graph = graph

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes as they are now: removing one does not disturb a loop over them."""
        return list(self._graph["nodes"])

    def remove(self, node: dict[str, Any]) -> None:
        """Take a node out, with all its links."""
        for link in self._links():
            if node["id"] in (_get(link, "origin_id"), _get(link, "target_id")):
                self._cut(link)
        self._graph["nodes"] = [other for other in self._graph["nodes"] if other is not node]

    def remove_with_readers(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        """Take a node out with every node that gets something from it; returns them, the node first."""
        gone = [node]
        for one in gone:
            targets = {_get(link, "target_id") for link in self._links() if _get(link, "origin_id") == one["id"]}
            gone += [other for other in self._graph["nodes"] if other["id"] in targets and all(other is not known for known in gone)]
        for one in gone:
            self.remove(one)
        return gone

    def splice(self, node: dict[str, Any], through: str) -> None:
        """Take a node out and lead what came in at `through` to everything that read from it."""
        incoming = next(
            (link for link in self._links() if _get(link, "target_id") == node["id"] and self._enters(link, node, through)), None
        )
        if incoming is not None:
            origin, slot = _get(incoming, "origin_id"), _get(incoming, "origin_slot")
            for link in self._links():
                if _get(link, "origin_id") == node["id"]:
                    _set(link, "origin_id", origin)
                    _set(link, "origin_slot", slot)
                    _set(link, "type", _get(incoming, "type"))
                    self._leaving(origin, slot).append(_get(link, "id"))
        self.remove(node)

    def drop_inputs(self, node: dict[str, Any], names: frozenset[str]) -> None:
        """Take inputs away from a node; the links of those behind them move up."""
        slots = node.get("inputs")
        if not isinstance(slots, list):
            return
        kept = [index for index, slot in enumerate(slots) if slot.get("name") not in names]
        for link in self._links():
            if _get(link, "target_id") == node["id"]:
                if _get(link, "target_slot") in kept:
                    _set(link, "target_slot", kept.index(_get(link, "target_slot")))
                else:
                    self._cut(link)
        node["inputs"] = [slots[index] for index in kept]

    def _enters(self, link: Link, node: dict[str, Any], name: str) -> bool:
        slots, index = node.get("inputs") or [], int(_get(link, "target_slot"))
        return _get(link, "target_id") == node["id"] and 0 <= index < len(slots) and bool(slots[index].get("name") == name)

    def _links(self) -> list[Link]:
        return [link for link in self._graph.get("links") or () if link is not None]

    def _leaving(self, origin: Any, slot: int) -> list[Any]:
        """The list of link ids at an output, or at an input of the subgraph itself."""
        if origin == _SUBGRAPH_INPUT:
            owner, key = self._graph["inputs"][slot], "linkIds"
        else:
            owner, key = self._node(origin)["outputs"][slot], "links"
        if not isinstance(owner.get(key), list):
            owner[key] = []
        found: list[Any] = owner[key]
        return found

    def _cut(self, link: Link) -> None:
        link_id, target, slot = _get(link, "id"), _get(link, "target_id"), _get(link, "target_slot")
        leaving = self._leaving(_get(link, "origin_id"), _get(link, "origin_slot"))
        if link_id in leaving:
            leaving.remove(link_id)
        if target == _SUBGRAPH_OUTPUT:
            entering = self._graph["outputs"][slot].get("linkIds") or []
            self._graph["outputs"][slot]["linkIds"] = [other for other in entering if other != link_id]
        else:
            for entry in self._node(target).get("inputs") or ():
                if entry.get("link") == link_id:
                    entry["link"] = None
        self._graph["links"] = [other for other in self._graph["links"] if other is not link]

    def _node(self, node_id: Any) -> dict[str, Any]:
        return next(node for node in self._graph["nodes"] if node["id"] == node_id)


def _get(link: Link, field: str) -> Any:
    return link[field] if isinstance(link, dict) else link[_FIELDS.index(field)]


def _set(link: Link, field: str, value: Any) -> None:
    link[field if isinstance(link, dict) else _FIELDS.index(field)] = value
