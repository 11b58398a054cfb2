"""Guesses for lazy inputs: which of them will a node ask for?

For prefetching, a missing guess costs a stall and a wrong one costs bytes read for nothing. So: follow the inputs that
can be read off the prompt (of a switch with a constant), and where none can, all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from .order import Wanted
from .traits import Node, NodeOf, TraitsOf, is_link

_MAX_HOPS = 16


def all_lazy(node_id: str, node: Node) -> Iterable[str]:
    """Every lazy input will be asked for."""
    return tuple(node.get("inputs", {}))


def likely(node_of: NodeOf, traits: TraitsOf) -> Wanted:
    """The branch that a switch's constant selects; all lazy inputs where nothing is known.

    A switch is a node with a boolean input "switch" and lazy inputs "on_true" and "on_false" (ComfySwitchNode). The constant may be its own
    widget or come over links from primitive nodes, which have one value input and hand it on.
    """

    def wanted(node_id: str, node: Node) -> Iterable[str]:
        inputs = node.get("inputs", {})
        known = traits(node.get("class_type", ""))
        if known is None or not known.lazy & {"on_true", "on_false"}:
            return tuple(inputs)
        choice = _constant(inputs.get("switch"), node_of)
        if choice is None:
            return tuple(inputs)
        return ("on_true",) if choice else ("on_false",)

    return wanted


def _constant(value: object, node_of: NodeOf) -> object:
    for _ in range(_MAX_HOPS):
        if not is_link(value):
            return value if isinstance(value, bool | int | float | str) else None
        assert isinstance(value, list)
        node = node_of(value[0])
        if node is None or not node.get("class_type", "").startswith("Primitive"):
            return None
        value = node.get("inputs", {}).get("value")
    return None
