"""Which values an editor's file saves for which widgets: of a node, and of a subgraph's instance for the widgets inside it.

An instance shows widgets of its inner nodes as its own, and its values win. Where a widget is linked to an input of the subgraph, the
instance saves its value in the order of the subgraph's inputs. Older files list the shown widgets by inner node id and name in the
instance's property `proxyWidgets`, values in that order. The editor (comfyui-frontend-package 1.49.6) applies the first, over it the values
that it once could not place (`proxyWidgetErrorQuarantine`), over both the second. It goes by position: names (`widgets_values_named`) are
read here for classes that nobody knows and where a file has nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .core_nodes import AFTER_SEED, core_nodes

_OLD_PREFIX = re.compile(r"^(?:\s*\d+\s*:)+\s*(?=\S)")  # "12: seed": the widget of a node further inside
_AT_INSTANCE = "-1"  # for a node id: an input of the instance itself

Shown = Mapping[str, tuple[str, str]]
"""Input of a subgraph -> (inner node id, widget) that it is linked to, in the inputs' order; those that show no widget are left out."""


def widget_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """Widget name -> value, in the order of the class's widgets where the class is known, else of the file's inputs that are widgets.

    Values of an unknown class that the file gives no name to are called "widget 3", by their place.
    """
    values, named = node.get("widgets_values"), node.get("widgets_values_named")
    core = core_nodes().get(node["type"])
    if isinstance(values, Mapping):
        return dict(values)
    if isinstance(named, Mapping) and (core is None or not values):
        return dict(named)
    if not isinstance(values, list):
        return {}
    return core.named_values(values) if core is not None else _in_order(values, [name for _, name in widget_slots(node)])


def widget_slots(node: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The inputs of a node that are widgets, each with the widget's name."""
    for slot in node.get("inputs") or ():
        if isinstance(slot.get("widget"), Mapping):
            yield slot, str(slot["widget"].get("name"))


def first_value(node: Mapping[str, Any]) -> object:
    """The value of a node that has one widget; None where the file has none."""
    values = node.get("widgets_values")
    return values[0] if isinstance(values, list) and values else None


def _in_order(values: list[Any], names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    places = iter(names)
    before: object = None
    for index, value in enumerate(values):
        after_seed = isinstance(value, str) and value in AFTER_SEED and type(before) in (int, float) and len(values) > len(names)
        if not after_seed:
            found[next(places, f"widget {index}")] = value
        before = value
    return found


def instance_values(instance: Mapping[str, Any], shown: Shown) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The values that an instance saves: by its input, and by inner node id and widget for those that are linked to no input."""
    values, named = instance.get("widgets_values"), instance.get("widgets_values_named")
    at_input: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    if isinstance(values, list) and values:
        at_input = dict(zip(shown, values, strict=False))
    else:
        by_name = values if isinstance(values, Mapping) else named if isinstance(named, Mapping) else {}
        at_input = {name: by_name[name] for name in shown if name in by_name}
    properties = instance.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    at_input |= {name: value for name, value in _quarantined(properties.get("proxyWidgetErrorQuarantine")) if name in shown}
    linked = {target: name for name, target in reversed(list(shown.items()))}
    for (node_id, name), value in zip(_proxies(properties.get("proxyWidgets")), values if isinstance(values, list) else (), strict=False):
        name = name if (node_id, name) in linked else _OLD_PREFIX.sub("", name)
        if value is None or name.startswith("$$"):  # a hole, or a preview
            continue
        if node_id == _AT_INSTANCE:
            at_input[name] = value
        elif (node_id, name) in linked:
            at_input[linked[node_id, name]] = value
        else:
            inside.setdefault(node_id, {})[name] = value
    return at_input, inside


def _proxies(entries: object) -> list[tuple[str, str]]:
    """(inner node id, widget) of each; none at all where one is of another shape, as the editor has it."""
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except (ValueError, RecursionError):
            return []
    if not isinstance(entries, list):
        return []
    well = all(isinstance(entry, list) and len(entry) in (2, 3) and all(isinstance(part, str) for part in entry) for entry in entries)
    return [(entry[0], entry[1]) for entry in entries] if well else []


def _quarantined(entries: object) -> Iterator[tuple[str, Any]]:
    """(input, value); of two for one input the earlier comes last, and wins."""
    for entry in reversed(entries if isinstance(entries, list) else []):
        original = entry.get("originalEntry") if isinstance(entry, Mapping) else None
        if isinstance(original, list) and len(original) >= 2 and original[0] == _AT_INSTANCE and entry.get("hostValue") is not None:
            yield str(original[1]), entry["hostValue"]
