"""What is known of ComfyUI's own node classes without running it: a shipped table, written by tools/core_nodes.py.

One entry of the table, with what is empty or false left out:
    out        link types of the outputs, in slot order, separated by spaces
    is_output, is_async
    lazy       names of lazy inputs
    sockets    name:TYPE of the inputs that are no widgets, in order, separated by spaces
    widgets    names of widget inputs in the order in which workflow files save their values; null where the editor saves its own choice
               of what to do with a seed after each run; [name, {choice: widgets that it adds}] for a combo that adds widgets
    folders    widget name -> ComfyUI's name of the models folder whose files it lists
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .graph import NodeTraits


@dataclass(frozen=True, slots=True)
class CoreNode:
    traits: NodeTraits
    sockets: Mapping[str, str]
    widgets: tuple[Any, ...]
    folders: Mapping[str, str]

    def named_values(self, values: Iterable[object]) -> dict[str, Any]:
        """Widget name -> value, from the values that a workflow file saves for a node of this class; stops where they end."""
        found: dict[str, Any] = {}
        _take(self.widgets, iter(values), "", found)
        return found


def _take(widgets: Iterable[Any], values: Iterator[object], prefix: str, found: dict[str, Any]) -> None:
    for widget, value in zip(widgets, values, strict=False):
        if isinstance(widget, list):
            name, choices = widget
            found[prefix + name] = value
            _take(choices.get(value, ()) if isinstance(value, str) else (), values, f"{prefix}{name}.", found)
        elif widget is not None:
            found[prefix + widget] = value


@cache
def core_nodes() -> Mapping[str, CoreNode]:
    """class_type -> facts; read once, on first use."""
    table = json.loads((Path(__file__).parent / "data" / "core_nodes.json").read_text(encoding="utf-8"))
    return {
        name: CoreNode(
            NodeTraits(
                tuple(facts.get("out", "").split()),
                facts.get("is_output", False),
                facts.get("is_async", False),
                frozenset(facts.get("lazy", ())),
            ),
            dict(socket.split(":", 1) for socket in facts.get("sockets", "").split()),
            tuple(facts.get("widgets", ())),
            facts.get("folders", {}),
        )
        for name, facts in table["nodes"].items()
    }


def core_traits(class_type: str) -> NodeTraits | None:
    """Traits of a class that ships with ComfyUI, or of our node around one; None for all others."""
    node = core_nodes().get(class_type) or core_nodes().get(class_type.removeprefix("Residency"))
    return None if node is None else node.traits
