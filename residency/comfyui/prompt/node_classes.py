"""The node classes that are installed: their traits, and the options that a widget offers."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import nodes

from ...graph import NodeTraits
from ...settings.node_inputs import ASIDE

_traits: dict[type, NodeTraits] = {}


def traits(class_type: str) -> NodeTraits | None:
    """Traits of an installed node class; None when it is not installed."""
    node_class = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    if node_class is None:
        return None
    found = _traits.get(node_class)
    if found is None:
        found = _traits[node_class] = replace(_read_traits(node_class), aside=ASIDE.get(class_type, frozenset()))
    return found


def _read_traits(node_class: Any) -> NodeTraits:
    inputs = node_class.INPUT_TYPES()
    lazy = {
        name
        for category in ("required", "optional")
        for name, spec in inputs.get(category, {}).items()
        if len(spec) > 1 and isinstance(spec[1], dict) and spec[1].get("lazy")
    }
    return NodeTraits(
        outputs=tuple(str(output) for output in node_class.RETURN_TYPES or ()),
        is_output=bool(getattr(node_class, "OUTPUT_NODE", False)),
        is_async=inspect.iscoroutinefunction(getattr(node_class, node_class.FUNCTION)),
        lazy=frozenset(lazy),
    )


def options(class_type: str, input_name: str) -> set[str]:
    """The options of a widget of an installed class; empty for one without a list."""
    inputs = nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()
    for category in ("required", "optional"):
        spec = inputs.get(category, {}).get(input_name)
        if spec is not None:
            options = spec[0] if isinstance(spec[0], list | tuple) else (spec[1] if len(spec) > 1 else {}).get("options", ())
            return {option for option in options if isinstance(option, str)}
    return set()
