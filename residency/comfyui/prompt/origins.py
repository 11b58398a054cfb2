"""The origins of ComfyUI's values: the files behind a MODEL, CLIP, VAE or ControlNet as they were when its loader node ran.

A result that lies in ComfyUI's cache stays what it is when its file is replaced. Its origin is kept beside the value itself, by
weak reference, so that it is known exactly as long as the value lives, and of no other that comes to lie under the same cache key.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.component import FileIdentity
from ...graph.traits import links
from ...weights.components import NodeLoads
from ...weights.identity import first_change
from ..device.models import model_of

LoadsNow = Callable[[str, Mapping[str, Any]], NodeLoads]
"""(node class, its inputs) -> what the node would load now"""


@dataclass(frozen=True, slots=True)
class Maker:
    """A node that has loaded files, and its loads."""

    class_type: str
    inputs: Mapping[str, Any]
    loads: NodeLoads

    def files(self) -> list[FileIdentity]:
        return _files(self.loads)

    def change(self, loads_now: LoadsNow) -> str | None:
        """Why the node would load something else now; None: it would load the same."""
        changed = first_change(self.files())
        if changed is not None:
            return f"{changed} since it was loaded"
        # a file of that name in a folder that comes first, or a link that leads elsewhere now
        others = [file.path for file in _files(loads_now(self.class_type, self.inputs)) if file not in self.files()]
        return f"its name leads to {others[0]} now" if others else None


@dataclass(frozen=True, slots=True)
class Origin:
    """`result` is ComfyUI's cache key of the result that the value was made as. `makers`: the nodes that have loaded its parts, its own
    first; None where something of unknown origin went in."""

    result: Any
    loads: NodeLoads
    makers: tuple[Maker, ...] | None


class Origins:
    """The origins of the values that loader nodes have made while the pack was on."""

    def __init__(self) -> None:
        self._origins: weakref.WeakKeyDictionary[Any, Origin] = weakref.WeakKeyDictionary()

    def learn(self, result: Any, outputs: Iterable[Any], maker: Maker, took: Iterable[Any]) -> None:
        """A loader node has run: `took` are the results that went in. Files that have changed since it started, files that cannot be read
        and inputs of unknown origin leave its own unknown."""
        known = not maker.loads.warnings and first_change(maker.files()) is None
        makers: tuple[Maker, ...] | None = (maker,) if known else None
        for values in took:
            before = [self._origins.get(value) for value in holders(values)]
            for origin in before or [None]:
                makers = None if makers is None or origin is None or origin.makers is None else (*makers, *origin.makers)
        for value in holders(outputs):
            if value not in self._origins:  # a LoRA of strength 0 gives back what it was given
                self._origins[value] = Origin(result, maker.loads, makers)

    def of_result(self, result: Any, outputs: Any) -> Origin | None:
        """The origin of the value in ComfyUI's cache under the key `result`; None where that is not known, or it passes on another's."""
        found = [self._origins.get(value) for value in holders(outputs or ())]
        return found[0] if found and all(origin is not None and origin.result == result for origin in found) else None

    def loads_of(self, result: Any, outputs: Any) -> NodeLoads | None:
        """Loads of the node that made the result; None where they are not known."""
        origin = self.of_result(result, outputs) if result is not None and self._origins else None
        return None if origin is None else origin.loads


def took(execution_list: Any, node_id: str) -> list[Any]:
    """The results that go into a node, each as ComfyUI keeps it: a list of one output slot's values, None where it is not kept."""
    found = []
    for _, source, slot in links(execution_list.dynprompt.get_node(node_id)):
        entry = execution_list.output_cache.get_local(source)
        found.append(None if entry is None or entry.outputs is None else entry.outputs[slot])
    return found


def holders(values: Any) -> Iterator[Any]:
    """The values that hold models, out of nested lists."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from holders(value)
    elif model_of(values) is not None:
        yield values


def _files(loads: NodeLoads) -> list[FileIdentity]:
    return [file for component, _ in loads.components for file in component.files]


def result_key(execution_list: Any, node_id: str) -> Any:
    """ComfyUI's cache key of a node's result; None for one that is kept elsewhere (of a subgraph, with some of its caches)."""
    keys = getattr(execution_list.output_cache, "cache_key_set", None)  # --cache-none has none
    return None if keys is None else keys.get_data_key(node_id)
