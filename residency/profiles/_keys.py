"""Which earlier runs speak for a node: one key per node, from the exact same work down to the same class. Pure.

Four levels, most specific first. Each is a predictor of its own, with an error of its own (`_estimate.py`):

EXACT    every widget of the node and of all its ancestors and how they are wired, without seeds and texts
SHAPE    of the same graph only widgets that change the amount of work: no strengths, no names of weights, no nodes without such widgets
WEIGHTS  the class with the same components
CLASS    the class

The environment and, but for CLASS, the components are part of each: an update or a replaced file leaves the old numbers behind.
Widget values enter as hashes: no text of the user's is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..graph.traits import Node, is_link, links
from ..weights.components import SAFETENSORS_SUFFIXES, WHOLE_FILE_SUFFIXES


class Level(Enum):
    """The share of a node's work that an estimate's samples have in common with it."""

    EXACT = "exact"
    SHAPE = "shape"
    WEIGHTS = "weights"
    CLASS = "class"


LEVELS = tuple(Level)

SEED_FROM = 2**31  # no width, length or number of steps is that large; seeds are drawn from 0 to 2**64
TEXT_CHARS = 64  # a choice is shorter

_NOT_COST = ("seed", "text", "prompt", "prefix", "memory_mode")  # memory_mode: our own input moves weights, the work stays
_BLENDING = ("strength", "cfg", "guidance", "denoise", "shift", "weight", "noise")  # numbers that scale results, not work
_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,11}$")
_WEIGHTS = SAFETENSORS_SUFFIXES + WHOLE_FILE_SUFFIXES


@dataclass(frozen=True, slots=True)
class NodeKey:
    """`ids` has one hash for each of LEVELS; `components` are the sorted keys of those that the node loads or computes with."""

    environment: str
    class_type: str
    components: tuple[str, ...]
    ids: tuple[str, str, str, str]

    @staticmethod
    def of(environment: str, class_type: str, components: Iterable[str], exact: str, shape: str) -> NodeKey:
        """`exact` and `shape` are any strings that tell different work apart."""
        used = tuple(sorted(set(components)))
        ids = (
            _hash("exact", environment, class_type, used, exact),
            _hash("shape", environment, class_type, used, shape),
            _hash("weights", environment, class_type, used),
            _hash("class", environment, class_type),
        )
        return NodeKey(environment, class_type, used, ids)


def node_keys(
    prompt: Mapping[str, Node],
    environment: str,
    components: Mapping[str, Iterable[str]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, NodeKey]:
    """The key of each node of a prompt in API format, expanded nodes included. About 45 µs a node, so once a prompt.

    `environment` names the conditions under which old numbers hold: ComfyUI's version, the device, the patcher. `components` are the keys
    that each node loads or computes with. `shapes` are sizes that only the host can know, by node: width and height of the
    picture that a LoadImage names. Where they are given the file's name does not count; elsewhere another picture is another shape.
    """
    components, shapes = components or {}, shapes or {}
    exact: dict[str, str] = {}
    shape: dict[str, str] = {}
    keys = {}
    for node_id in _ancestors_first(prompt):
        node = prompt[node_id]
        class_type = str(node.get("class_type", ""))
        widgets = sorted(_widgets(node))
        wires = sorted((name, exact.get(source, ""), slot) for name, source, slot in links(node))
        exact[node_id] = _hash(class_type, [(name, value) for name, value in widgets if not _is_text(value)], wires)
        shape[node_id] = _shape(class_type, widgets, shapes.get(node_id), {shape.get(source, "") for _, source, _ in links(node)})
        keys[node_id] = NodeKey.of(environment, class_type, components.get(node_id, ()), exact[node_id], shape[node_id])
    return keys


def _shape(class_type: str, widgets: Iterable[tuple[str, Any]], known: Sequence[int] | None, above: set[str]) -> str:
    """A node that adds nothing passes on the shape above it: putting one in between changes no shape."""
    own: list[Any] = [item for name, value in widgets for item in _work(name, value, known is not None)]
    if known is not None:
        own.append(("shape", list(known)))
    parents = sorted(above - {""})
    if own:
        return _hash(class_type, own, parents)
    return parents[0] if len(parents) == 1 else _hash(parents) if parents else ""


def _work(name: str, value: Any, shape_known: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str):
        if _is_text(value) or value.lower().endswith(_WEIGHTS) or (shape_known and _FILE.search(value)):
            return
    elif not isinstance(value, bool) and isinstance(value, int | float) and any(word in name.lower() for word in _BLENDING):
        if "cfg" in name.lower():  # at 1 the negative prompt is not computed: half the work (comfy/samplers.py, sampling_function)
            yield name, value == 1
        return
    yield name, value


def _widgets(node: Node) -> Iterator[tuple[str, Any]]:
    for name, value in node.get("inputs", {}).items():
        if is_link(value) or any(word in name.lower() for word in _NOT_COST):
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and not -SEED_FROM < value < SEED_FROM:
            continue
        yield name, value


def _is_text(value: Any) -> bool:
    """A text that a person wrote rather than chose. One word or a short line with a digit in it ("1:1 (1024 x 1024)") may be a choice."""
    if not isinstance(value, str):
        return False
    if _FILE.search(value) and "\n" not in value:
        return False
    looks_chosen = len(value) <= TEXT_CHARS and "\n" not in value and (" " not in value or any(char.isdigit() for char in value))
    return not looks_chosen


def _ancestors_first(prompt: Mapping[str, Node]) -> Iterator[str]:
    """Every node behind those it links to. Not recursive: chains are longer than Python's stack; a cycle is cut where it closes."""
    entered: set[str] = set()
    for first in prompt:
        stack = [(first, False)]
        while stack:
            node_id, leaving = stack.pop()
            if leaving:
                yield node_id
            elif node_id in prompt and node_id not in entered:
                entered.add(node_id)
                stack.append((node_id, True))
                stack += [(source, False) for _, source, _ in links(prompt[node_id])]


def _hash(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
