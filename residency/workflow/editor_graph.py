"""One graph of an editor's file (the root or a subgraph's definition): its shape checked, and the few changes that keep its links whole."""

from __future__ import annotations

from typing import Any

from ..units import shown

SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20
_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")

Link = Any  # a list [id, origin, slot, target, slot, type] at the root, an object in subgraphs


class UiError(Exception):
    """The fault of the file, in a few words."""


def graphs(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The root and the definitions of its subgraphs, every part of them of the shape that the editor saves.

    Nodes are objects with an id and a type; their slots are objects; links are null, lists of six or objects, with whole numbers for
    slots. Raises UiError, which names the first part that is not so.
    """
    definitions = data.get("definitions")
    if not isinstance(definitions, dict | None):
        raise _bad(f"the definitions are {shown(definitions)}, not an object")
    subgraphs = _objects((definitions or {}).get("subgraphs"), "the subgraphs")
    _check(data, "the workflow")
    for graph in subgraphs:
        what = f"subgraph {shown(graph.get('id'))}"
        if not _is_id(graph.get("id")):
            raise _bad(f"a subgraph has id {shown(graph.get('id'))}")
        _check(graph, what)
        for side in ("inputs", "outputs"):
            for slot in _objects(graph.get(side), f"the {side} of {what}"):
                _list(slot.get("linkIds"), f"the links of a slot of {what}")
    return [data, *subgraphs]


def _check(graph: dict[str, Any], what: str) -> None:
    if not isinstance(graph.get("nodes"), list):
        raise _bad(f"{what} has {shown(graph.get('nodes'))} for its nodes")
    for node in _objects(graph["nodes"], f"the nodes of {what}"):
        node_id, kind = node.get("id"), node.get("type")
        if not _is_id(node_id) or not isinstance(kind, str):
            raise _bad(f"a node of {what} has id {shown(node_id)} and type {shown(kind)}")
        for slot in _objects(node.get("inputs"), f"the inputs of node {shown(node_id)}"):
            name, link = slot.get("name"), slot.get("link")
            if not isinstance(name, str | None) or not (link is None or _is_id(link)):
                raise _bad(f"an input of node {shown(node_id)} has name {shown(name)} and link {shown(link)}")
        for slot in _objects(node.get("outputs"), f"the outputs of node {shown(node_id)}"):
            _list(slot.get("links"), f"the links of an output of node {shown(node_id)}")
    for link in _list(graph.get("links"), f"the links of {what}"):
        if link is not None:
            _check_link(link)


def _check_link(link: Any) -> None:
    fields = [link.get(name) for name in _FIELDS] if isinstance(link, dict) else link
    if not isinstance(fields, list) or len(fields) < len(_FIELDS) or not all(_is_id(fields[index]) for index in (0, 1, 3)):
        raise _bad(f"link {shown(link)} does not say what it joins")
    for slot in (fields[2], fields[4]):
        if not isinstance(slot, int) or isinstance(slot, bool):
            raise _bad(f"link {shown(fields[0])} has {shown(slot)} for the number of a slot")


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | tuple | None):
        raise _bad(f"{what} are {shown(value)}, not a list")
    return list(value or ())


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    for one in _list(value, what):
        if not isinstance(one, dict):
            raise _bad(f"{what} hold {shown(one)}, not an object")
    return list(value or ())


def _bad(what: str) -> UiError:
    return UiError(f"not in the editor's format: {what}")


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
        """Take a node out and lead the link that came in at `through` to every reader of the node."""
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
        """The list of link ids at an output, or at an input of the subgraph itself; one that nobody keeps where there is no such slot."""
        inner = origin == SUBGRAPH_INPUT
        owner, side, key = (self._graph, "inputs", "linkIds") if inner else (self._node(origin), "outputs", "links")
        slots = owner.get(side) or []
        if not 0 <= slot < len(slots):
            return []
        if not isinstance(slots[slot].get(key), list):
            slots[slot][key] = []
        found: list[Any] = slots[slot][key]
        return found

    def _cut(self, link: Link) -> None:
        link_id, target, slot = _get(link, "id"), _get(link, "target_id"), _get(link, "target_slot")
        leaving = self._leaving(_get(link, "origin_id"), _get(link, "origin_slot"))
        if link_id in leaving:
            leaving.remove(link_id)
        if target == SUBGRAPH_OUTPUT:
            for end in (self._graph.get("outputs") or [])[slot : slot + 1]:
                end["linkIds"] = [other for other in end.get("linkIds") or () if other != link_id]
        else:
            for entry in self._node(target).get("inputs") or ():
                if entry.get("link") == link_id:
                    entry["link"] = None
        self._graph["links"] = [other for other in self._graph["links"] if other is not link]

    def _node(self, node_id: Any) -> dict[str, Any]:
        return next((node for node in self._graph["nodes"] if node["id"] == node_id), {})


def _get(link: Link, field: str) -> Any:
    return link.get(field) if isinstance(link, dict) else link[_FIELDS.index(field)]


def _set(link: Link, field: str, value: Any) -> None:
    link[field if isinstance(link, dict) else _FIELDS.index(field)] = value
