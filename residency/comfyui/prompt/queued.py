"""The prompts behind the running one, as ComfyUI's queue has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUEUE_DEPTH = 3  # queued prompts that the timeline runs on into

REPETITION = "the same again"  # the id of a prompt that nobody has queued, and that usually comes next

_MAPPINGS = (dict, Mapping)  # of a dict the second is not asked, which takes 0.5 us each time

Queued = tuple[str, Mapping[str, Any], list[str]]
"""(prompt id, prompt, outputs to execute)"""


def whole_nodes(prompt: Any) -> dict[str, Any]:
    """The nodes of a prompt that have a class and inputs. ComfyUI checks those that an output needs; others may have any shape."""
    return {
        node_id: node
        for node_id, node in (prompt.items() if isinstance(prompt, Mapping) else ())
        if isinstance(node, _MAPPINGS) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), _MAPPINGS)
    }


@dataclass(frozen=True, slots=True)
class Ahead:
    """The prompts behind the running one: the queue in its order, and the one that usually follows when the queue is empty."""

    queue: tuple[Queued, ...] = ()
    repetition: Queued | None = None


NOTHING_QUEUED = Ahead()
