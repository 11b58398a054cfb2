"""The traits of a node class that a prediction needs, and the links between a prompt's nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

Node = Mapping[str, Any]  # one entry of a prompt in API format: {"class_type": ..., "inputs": {...}}
NodeOf = Callable[[str], Node | None]  # node id -> node; None when there is no such node


@dataclass(frozen=True, slots=True)
class NodeTraits:
    """`outputs` are link types in slot order; `lazy` names the inputs that are evaluated only when the node asks for them.

    Components that arrive at the inputs `aside` go no further and are not computed with: they are only named there.
    """

    outputs: tuple[str, ...] = ()
    is_output: bool = False
    is_async: bool = False
    lazy: frozenset[str] = frozenset()
    aside: frozenset[str] = frozenset()

    @property
    def encodes(self) -> bool:
        """Whether it makes nothing but conditioning: such a node goes through its models once."""
        return bool(self.outputs) and self.outputs.count("CONDITIONING") == len(self.outputs)


TraitsOf = Callable[[str], NodeTraits | None]  # class_type -> traits; None for an unknown class

UNKNOWN = NodeTraits()


_NUMBER = (int, float)  # `int | float` is made anew each time it is asked


def is_link(value: object) -> bool:
    """ComfyUI's own rule (comfy_execution/graph_utils.py): a list of a node id and a slot number."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], _NUMBER)


def links(node: Node) -> Iterator[tuple[str, str, int]]:
    """(input name, source node id, source slot) in the order of the inputs, which is the order the executor walks.

    A slot that is no number of a slot (JSON's Infinity, NaN) leads nowhere: ComfyUI refuses such a prompt.
    """
    for name, value in node.get("inputs", {}).items():
        if is_link(value) and (isinstance(value[1], int) or isfinite(value[1])):
            yield name, value[0], int(value[1])
