"""The format in which ComfyUI's editor saves workflows, flattened to the prompt that the editor queues.

Follows the editor's graphToPrompt and ExecutableNodeDTO (comfyui-frontend-package 1.49.6): subgraphs are expanded to nodes "5:3", muted
nodes and those that only they feed vanish, a bypassed node hands on its first input of the same type, Reroute and PrimitiveNode live in the
editor only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..units import shown
from .core_nodes import core_nodes
from .editor_graph import SUBGRAPH_INPUT, UiError, graphs
from .editor_values import Shown, first_value, instance_values, widget_slots, widget_values

_NEVER, _BYPASS = 2, 4
_NOTES = frozenset({"Note", "MarkdownNote"})
_PASSES_ON = frozenset({"Reroute", "Reroute (rgthree)"})
_EDITOR_ONLY = _NOTES | _PASSES_ON | {"PrimitiveNode", "SetNode", "GetNode"}
_MOST_NODES = 100_000  # a few subgraphs that hold one another twice each stand for millions
_DEEPEST = 100  # subgraphs in one another


@dataclass
class Flat:
    prompt: dict[str, dict[str, Any]] = field(default_factory=dict)
    output_types: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Link:
    origin: str
    slot: int
    target: str


@dataclass(frozen=True, slots=True)
class _Value:
    """A widget's value instead of a link."""

    value: object


@dataclass(eq=False, slots=True)
class _Scope:
    """One graph as it is used at one place: the root, or one instance of a subgraph.

    The instance's saved values: `values` by its input, `given` by inner node id and widget. `shown`: see ui_values.
    """

    prefix: str
    nodes: dict[str, dict[str, Any]]
    links: dict[str, _Link]
    definition: Mapping[str, Any] | None = None
    instance: dict[str, Any] | None = None
    parent: _Scope | None = None
    inner: dict[str, _Scope] = field(default_factory=dict)  # by the instance's node id
    shown: Shown = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def flatten(data: dict[str, Any]) -> Flat:
    """Raises UiError when the file's parts do not have the shapes of a workflow."""
    return _Flattener(data).flatten()


class _Flattener:
    def __init__(self, data: dict[str, Any]) -> None:
        root, *definitions = graphs(data)
        self._subgraphs: dict[str, Mapping[str, Any]] = {str(definition["id"]): definition for definition in definitions}
        self._flat = Flat()
        self._opened = 0
        self._root = self._open(root, "", None, None, ())

    def flatten(self) -> Flat:
        found = dict(self._nodes_in(self._root))
        # JavaScript objects list whole-number keys first and in order.
        numbers = sorted((key for key in found if key.isdecimal()), key=int)
        for node_id in [*numbers, *(key for key in found if not key.isdecimal())]:
            scope, node = found[node_id]
            self._flat.prompt[node_id] = self._node(scope, node)
            self._flat.output_types[node_id] = tuple(str(slot.get("type", "*")) for slot in node.get("outputs") or ())
        for node in self._flat.prompt.values():
            gone = [name for name, value in node["inputs"].items() if isinstance(value, list) and value[0] not in self._flat.prompt]
            for name in gone:
                del node["inputs"][name]
        return self._flat

    def _open(
        self, graph: Mapping[str, Any], prefix: str, instance: dict[str, Any] | None, parent: _Scope | None, above: tuple[str, ...]
    ) -> _Scope:
        self._opened += len(graph["nodes"])
        if self._opened > _MOST_NODES or len(above) > _DEEPEST:
            raise UiError(f"its subgraphs stand for more than {_MOST_NODES} nodes, or lie in one another more than {_DEEPEST} deep")
        scope = _Scope(prefix, {str(node["id"]): node for node in graph["nodes"]}, _links(graph.get("links") or ()))
        scope.instance, scope.parent = instance, parent
        scope.definition = graph if instance is not None else None
        for node_id, node in scope.nodes.items():
            kind = node["type"]
            if kind in above:
                raise UiError(f"subgraph {shown(self._subgraphs[kind].get('name', kind))} contains itself")
            if kind in self._subgraphs:
                scope.inner[node_id] = self._open(self._subgraphs[kind], f"{prefix}{node_id}:", node, scope, (*above, kind))
        if instance is not None:
            scope.shown = _shown(scope)
            scope.values, scope.given = instance_values(instance, scope.shown)
        return scope

    def _nodes_in(self, scope: _Scope) -> Iterator[tuple[str, tuple[_Scope, dict[str, Any]]]]:
        for node_id, node in scope.nodes.items():
            off = node.get("mode") in (_NEVER, _BYPASS)
            if node["type"] in _EDITOR_ONLY or (off and (node_id not in scope.inner or scope is self._root)):
                continue  # the editor leaves out what is in a bypassed subgraph, but only at the top level
            if node_id in scope.inner:
                yield from self._nodes_in(scope.inner[node_id])
            elif node["type"] in core_nodes() or node.get("outputs") or any(_link_of(slot) for slot in node.get("inputs") or ()):
                if node["type"].startswith(("workflow>", "workflow/")):
                    self._flat.warnings.append(f"group node {node_id} is taken as one node; convert it to a subgraph to see inside")
                yield scope.prefix + node_id, (scope, node)

    def _node(self, scope: _Scope, node: dict[str, Any]) -> dict[str, Any]:
        core = core_nodes().get(node["type"])
        values = widget_values(node) | _given(scope, str(node["id"]))
        # Lists stand for links in a prompt.
        inputs = {name: {"__value__": value} if isinstance(value, list) else value for name, value in values.items()}
        rank = {name: index for index, name in enumerate(core.sockets)} if core is not None else {}
        slots = [(str(slot.get("name")), slot) for slot in node.get("inputs") or ()]
        for name, slot in sorted(slots, key=lambda named: rank.get(named[0], len(rank))):
            source = self._input(scope, node, slot)
            if isinstance(source, _Value):
                inputs[name] = {"__value__": source.value} if isinstance(source.value, list) else source.value
            elif source is not None:
                inputs[name] = [source[0], source[1]]
        meta = {"title": node["title"]} if isinstance(node.get("title"), str) else {}
        return {"inputs": inputs, "class_type": node["type"], **({"_meta": meta} if meta else {})}

    def _input(self, scope: _Scope, node: dict[str, Any], slot: dict[str, Any]) -> tuple[str, int] | _Value | None:
        """The source of an input, found by walking against the links through all that exists in the editor only."""
        wanted = str(slot.get("type", "*"))
        seen: set[tuple[int, str, int]] = set()
        saved: _Value | None = None  # by the outermost instance so far
        own_scope = scope
        while True:
            link_id = _link_of(slot)
            mark = (id(scope), str(node["id"]), id(slot))
            link = None if link_id is None or mark in seen else scope.links.get(link_id)
            if link is None:
                return None
            seen.add(mark)
            if scope.instance is not None and link.origin == str(SUBGRAPH_INPUT):
                assert scope.parent is not None
                name = _input_name(scope, link.slot)
                found_slot = next((s for s in scope.instance.get("inputs") or () if str(s.get("name")) == name), None)
                if name is None:
                    return None
                if name in scope.values:
                    saved = _Value(scope.values[name])
                node, scope = scope.instance, scope.parent
                above = _given(scope, str(node["id"]))
                if name in above:
                    saved = _Value(above[name])
                if found_slot is None or _link_of(found_slot) is None:
                    return saved
                slot = found_slot
                continue
            found = self._behind(scope, link, wanted)
            if found is None or isinstance(found, _Value):
                return found if scope is own_scope else None  # a PrimitiveNode writes into the widgets of its own graph only
            scope, node, next_slot = found
            if isinstance(next_slot, int):
                return scope.prefix + str(node["id"]), next_slot
            slot = next_slot

    def _behind(
        self, scope: _Scope, link: _Link, wanted: str
    ) -> tuple[_Scope, dict[str, Any], int] | tuple[_Scope, dict[str, Any], dict[str, Any]] | _Value | None:
        """The output a link comes from; or the input at which to go on, where its node exists in the editor only."""
        node = scope.nodes.get(link.origin)
        index = link.slot
        while node is not None:
            if node.get("mode") == _NEVER:
                return None
            if node.get("mode") == _BYPASS:
                slot = _bypass(node, index, wanted)
                return None if slot is None else (scope, node, slot)
            if str(node["id"]) in scope.inner:
                scope = scope.inner[str(node["id"])]
                link_found = _subgraph_output(scope, index)
                node = None if link_found is None else scope.nodes.get(link_found.origin)
                if link_found is not None and link_found.origin == str(SUBGRAPH_INPUT):
                    # The subgraph hands an input straight through.
                    assert scope.instance is not None and scope.parent is not None
                    name = _input_name(scope, link_found.slot)
                    through = next((s for s in scope.instance.get("inputs") or () if str(s.get("name")) == name), None)
                    return None if through is None else (scope.parent, scope.instance, through)
                index = 0 if link_found is None else link_found.slot
                continue
            kind = node["type"]
            inputs = node.get("inputs") or ()
            if kind == "PrimitiveNode":
                given = _given(scope, str(node["id"]))
                value = next(iter(given.values()), first_value(node))
                return None if value is None else _Value(value)
            if kind in _PASSES_ON:
                return (scope, node, inputs[0]) if inputs else None
            if kind == "GetNode":
                key = first_value(node)
                setter = next((n for n in scope.nodes.values() if n["type"] == "SetNode" and first_value(n) == key), None)
                return (scope, setter, setter["inputs"][0]) if setter is not None and setter.get("inputs") else None
            if kind == "SetNode":
                return (scope, node, inputs[0]) if inputs else None
            return scope, node, index
        return None


def _links(links: Iterable[Any]) -> dict[str, _Link]:
    """Lists [id, origin, slot, target, slot, type] or objects, by id."""
    found = {}
    for link in links:
        if isinstance(link, Mapping):
            found[str(link["id"])] = _Link(str(link["origin_id"]), link["origin_slot"], str(link["target_id"]))
        elif link is not None:
            found[str(link[0])] = _Link(str(link[1]), link[2], str(link[3]))
    return found


def _link_of(slot: Mapping[str, Any]) -> str | None:
    link = slot.get("link")
    return None if link is None else str(link)


def _input_name(scope: _Scope, index: int) -> str | None:
    """The name of an input of the subgraph itself."""
    assert scope.definition is not None
    inputs = scope.definition.get("inputs") or ()
    return str(inputs[index].get("name")) if 0 <= index < len(inputs) else None


def _shown(scope: _Scope) -> Shown:
    """The inputs of the subgraph that show a widget inside it, and whose; the first link from an input decides."""
    found: dict[str, tuple[str, str]] = {}
    for link_id, link in scope.links.items():
        name = _input_name(scope, link.slot) if link.origin == str(SUBGRAPH_INPUT) else None
        node = scope.nodes.get(link.target)
        slot = next((slot for slot in (node or {}).get("inputs") or () if _link_of(slot) == link_id), None)
        if name is None or name in found or node is None or slot is None:
            continue
        if link.target in scope.inner:
            if str(slot.get("name")) in scope.inner[link.target].shown:
                found[name] = (link.target, str(slot.get("name")))
        else:
            widget = next((widget for own, widget in widget_slots(node) if own is slot), None)
            if widget is not None:
                found[name] = (link.target, widget)
    names = dict.fromkeys(str(slot.get("name")) for slot in (scope.definition or {}).get("inputs") or ())
    return {name: found[name] for name in names if name in found}


def _given(scope: _Scope, node_id: str) -> dict[str, Any]:
    """Widget -> value, of a node inside a subgraph, that the instance saves for it; an instance further out wins."""
    own = scope.given.get(node_id)
    if own is None or scope.instance is None or scope.parent is None:
        return {}
    return {**own, **{name: value for name, value in _given(scope.parent, str(scope.instance["id"])).items() if name in own}}


def _subgraph_output(scope: _Scope, index: int) -> _Link | None:
    assert scope.definition is not None
    outputs = scope.definition.get("outputs") or ()
    link_ids = (outputs[index].get("linkIds") or ()) if 0 <= index < len(outputs) else ()
    return scope.links.get(str(link_ids[0])) if link_ids else None


def _bypass(node: Mapping[str, Any], index: int, wanted: str) -> dict[str, Any] | None:
    """The input that a bypassed node hands on to its output `index`."""
    inputs = node.get("inputs") or []
    outputs = node.get("outputs") or []
    own = str(outputs[index].get("type", "*")) if 0 <= index < len(outputs) else wanted
    if not inputs:
        return None
    if wanted in ("*", ""):
        return inputs[index] if 0 <= index < len(inputs) else inputs[0]  # type: ignore[no-any-return]

    def fits(slot: Mapping[str, Any]) -> bool:
        return _fit(slot.get("type"), own) and _fit(slot.get("type"), wanted)

    if 0 <= index < len(inputs) and fits(inputs[index]):
        return inputs[index]  # type: ignore[no-any-return]
    return next((slot for slot in inputs if slot.get("type") == wanted), next((slot for slot in inputs if fits(slot)), None))


def _fit(one: object, other: object) -> bool:
    """LiteGraph's isValidConnection: equal, wildcard, or one type of a comma-separated list in common."""
    if one in ("", "*", 0, None) or other in ("", "*", 0, None) or one == other:
        return True
    return not set(str(one).lower().split(",")).isdisjoint(str(other).lower().split(","))
