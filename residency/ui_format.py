"""The format in which ComfyUI's editor saves workflows, flattened to the prompt that the editor queues.

Follows the editor's graphToPrompt and ExecutableNodeDTO (comfyui-frontend-package 1.49.6): subgraphs are expanded to nodes "5:3", muted
nodes and what only they feed vanish, a bypassed node hands on its first input of the same type, Reroute and PrimitiveNode live in the
editor only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .core_nodes import core_nodes

_NEVER, _BYPASS = 2, 4
_SUBGRAPH_INPUT = -10
_NOTES = frozenset({"Note", "MarkdownNote"})
_PASSES_ON = frozenset({"Reroute", "Reroute (rgthree)"})
_EDITOR_ONLY = _NOTES | _PASSES_ON | {"PrimitiveNode", "SetNode", "GetNode"}
_AFTER_SEED = frozenset({"fixed", "increment", "decrement", "randomize"})


class UiError(Exception):
    """What is wrong with the file, in a few words."""


@dataclass
class Flat:
    prompt: dict[str, dict[str, Any]] = field(default_factory=dict)
    output_types: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Link:
    origin: int | str
    slot: int


@dataclass(frozen=True, slots=True)
class _Value:
    """A widget's value instead of a link."""

    value: object


@dataclass(eq=False, slots=True)
class _Scope:
    """One graph as it is used at one place: the root, or one instance of a subgraph."""

    prefix: str
    nodes: dict[str, dict[str, Any]]
    links: dict[str, _Link]
    definition: Mapping[str, Any] | None = None
    instance: dict[str, Any] | None = None
    parent: _Scope | None = None
    inner: dict[str, _Scope] = field(default_factory=dict)  # by the instance's node id


def flatten(data: Mapping[str, Any]) -> Flat:
    """Raises UiError when the file's parts do not have the shapes of a workflow."""
    try:
        return _Flattener(data).flatten()
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UiError(f"not in the editor's format ({type(error).__name__}: {error})") from error


class _Flattener:
    def __init__(self, data: Mapping[str, Any]) -> None:
        definitions = (data.get("definitions") or {}).get("subgraphs") or ()
        self._subgraphs: dict[str, Mapping[str, Any]] = {str(definition["id"]): definition for definition in definitions}
        self._flat = Flat()
        self._root = self._open(data, "", None, None, ())

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
        scope = _Scope(prefix, {str(node["id"]): node for node in graph["nodes"]}, _links(graph.get("links") or ()))
        scope.instance, scope.parent = instance, parent
        scope.definition = graph if instance is not None else None
        for node_id, node in scope.nodes.items():
            kind = str(node["type"])
            if kind in above:
                raise UiError(f"subgraph {self._subgraphs[kind].get('name', kind)} contains itself")
            if kind in self._subgraphs:
                scope.inner[node_id] = self._open(self._subgraphs[kind], f"{prefix}{node_id}:", node, scope, (*above, kind))
        return scope

    def _nodes_in(self, scope: _Scope) -> Iterator[tuple[str, tuple[_Scope, dict[str, Any]]]]:
        for node_id, node in scope.nodes.items():
            off = node.get("mode") in (_NEVER, _BYPASS)
            if node["type"] in _EDITOR_ONLY or (off and (node_id not in scope.inner or scope is self._root)):
                continue  # the editor leaves out what is in a bypassed subgraph, but only at the top level
            if node_id in scope.inner:
                yield from self._nodes_in(scope.inner[node_id])
            elif node["type"] in core_nodes() or node.get("outputs") or any(_link_of(slot) for slot in node.get("inputs") or ()):
                if str(node["type"]).startswith(("workflow>", "workflow/")):
                    self._flat.warnings.append(f"group node {node_id} is taken as one node; convert it to a subgraph to see inside")
                yield scope.prefix + node_id, (scope, node)

    def _node(self, scope: _Scope, node: dict[str, Any]) -> dict[str, Any]:
        inputs: dict[str, Any] = _widget_values(node)
        core = core_nodes().get(str(node["type"]))
        rank = {name: index for index, name in enumerate(core.sockets)} if core is not None else {}
        for slot in sorted(node.get("inputs") or (), key=lambda slot: rank.get(slot["name"], len(rank))):
            source = self._input(scope, node, slot)
            if isinstance(source, _Value):
                inputs[slot["name"]] = source.value
            elif source is not None:
                inputs[slot["name"]] = [source[0], source[1]]
        # Lists stand for links in a prompt.
        wrapped = {name: value if _is_source(value) else {"__value__": value} for name, value in inputs.items() if isinstance(value, list)}
        meta = {"title": node["title"]} if isinstance(node.get("title"), str) else {}
        return {"inputs": inputs | wrapped, "class_type": str(node["type"]), **({"_meta": meta} if meta else {})}

    def _input(self, scope: _Scope, node: dict[str, Any], slot: dict[str, Any]) -> tuple[str, int] | _Value | None:
        """What an input gets, found by walking against the links through all that exists in the editor only."""
        wanted = str(slot.get("type", "*"))
        seen: set[tuple[int, str, str]] = set()
        while True:
            link_id = _link_of(slot)
            mark = (id(scope), str(node["id"]), str(slot.get("name")))
            if link_id is None or mark in seen:
                return None
            seen.add(mark)
            link = scope.links.get(link_id)
            if link is None:
                return None
            if scope.definition is not None and link.origin == _SUBGRAPH_INPUT:
                outer = scope.definition["inputs"][link.slot]
                assert scope.instance is not None and scope.parent is not None
                node, inner_scope, scope = scope.instance, scope, scope.parent
                slot_found = next((s for s in node.get("inputs") or () if s.get("name") == outer.get("name")), None)
                if slot_found is None or _link_of(slot_found) is None:
                    return _promoted(node, str(outer.get("name")), inner_scope)
                slot = slot_found
                continue
            found = self._behind(scope, link, wanted)
            if found is None or isinstance(found, _Value):
                return found
            scope, node, next_slot = found
            if isinstance(next_slot, int):
                return scope.prefix + str(node["id"]), next_slot
            slot = next_slot

    def _behind(
        self, scope: _Scope, link: _Link, wanted: str
    ) -> tuple[_Scope, dict[str, Any], int] | tuple[_Scope, dict[str, Any], dict[str, Any]] | _Value | None:
        """The output a link comes from; or the input at which to go on, where its node exists in the editor only."""
        node = scope.nodes.get(str(link.origin))
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
                node = None if link_found is None else scope.nodes.get(str(link_found.origin))
                if link_found is not None and link_found.origin == _SUBGRAPH_INPUT:
                    # The subgraph hands an input straight through.
                    assert scope.definition is not None and scope.instance is not None and scope.parent is not None
                    name = scope.definition["inputs"][link_found.slot].get("name")
                    through = next((s for s in scope.instance.get("inputs") or () if s.get("name") == name), None)
                    return None if through is None else (scope.parent, scope.instance, through)
                index = 0 if link_found is None else link_found.slot
                continue
            kind = node["type"]
            inputs = node.get("inputs") or ()
            if kind == "PrimitiveNode":
                values = node.get("widgets_values") or ()
                return _Value(values[0]) if isinstance(values, list) and values else None
            if kind in _PASSES_ON:
                return (scope, node, inputs[0]) if inputs else None
            if kind == "GetNode":
                name = (node.get("widgets_values") or [None])[0]
                setter = next(
                    (n for n in scope.nodes.values() if n["type"] == "SetNode" and (n.get("widgets_values") or [0])[0] == name), None
                )
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
            found[str(link["id"])] = _Link(link["origin_id"], int(link["origin_slot"]))
        elif link is not None:
            found[str(link[0])] = _Link(link[1], int(link[2]))
    return found


def _link_of(slot: Mapping[str, Any]) -> str | None:
    link = slot.get("link")
    return None if link is None else str(link)


def _is_source(value: list[Any]) -> bool:
    return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int) and not isinstance(value[1], bool)


def _subgraph_output(scope: _Scope, index: int) -> _Link | None:
    assert scope.definition is not None
    outputs = scope.definition.get("outputs") or ()
    if index >= len(outputs):
        return None
    link_ids = outputs[index].get("linkIds") or ()
    return scope.links.get(str(link_ids[0])) if link_ids else None


def _bypass(node: Mapping[str, Any], index: int, wanted: str) -> dict[str, Any] | None:
    """The input that a bypassed node hands on to its output `index`."""
    inputs = node.get("inputs") or []
    outputs = node.get("outputs") or []
    own = str(outputs[index].get("type", "*")) if index < len(outputs) else wanted
    if not inputs:
        return None
    if wanted in ("*", ""):
        return inputs[index] if len(inputs) > index else inputs[0]  # type: ignore[no-any-return]

    def fits(slot: Mapping[str, Any]) -> bool:
        return _fit(slot.get("type"), own) and _fit(slot.get("type"), wanted)

    if index < len(inputs) and fits(inputs[index]):
        return inputs[index]  # type: ignore[no-any-return]
    return next((slot for slot in inputs if slot.get("type") == wanted), next((slot for slot in inputs if fits(slot)), None))


def _fit(one: object, other: object) -> bool:
    """LiteGraph's isValidConnection: equal, wildcard, or one type of a comma-separated list in common."""
    if one in ("", "*", 0, None) or other in ("", "*", 0, None) or one == other:
        return True
    return not set(str(one).lower().split(",")).isdisjoint(str(other).lower().split(","))


def _widget_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """Widget name -> value, in the order of the class's widgets where the class is known, else of the file's inputs that are widgets."""
    values = node.get("widgets_values")
    if isinstance(values, Mapping):
        return dict(values)
    if not isinstance(values, list):
        return {}
    core = core_nodes().get(str(node["type"]))
    own = [slot["widget"].get("name") for slot in node.get("inputs") or () if isinstance(slot.get("widget"), Mapping)]
    if core is not None:
        return core.named_values(values)
    found: dict[str, Any] = {}
    rest = iter(values)
    for name in own:
        value = next(rest, None)
        if value in _AFTER_SEED and found and isinstance(list(found.values())[-1], int):
            value = next(rest, None)
        found[str(name)] = value
    return found


def _promoted(instance: Mapping[str, Any], name: str, inner: _Scope) -> _Value | None:
    """The value of a subgraph's own widget; None where the file keeps it only at the inner node."""
    values = instance.get("widgets_values")
    if not isinstance(values, list) or not values:
        return None
    widgets = [str(slot.get("name")) for slot in instance.get("inputs") or () if isinstance(slot.get("widget"), Mapping)]
    if len(widgets) == len(values) and name in widgets:
        return _Value(values[widgets.index(name)])
    return None
