"""Whether every weight that a model computes with is asked for through the gate, as its passes show one by one.

A weight that was filled meanwhile and was not asked for has been used behind the gate's back. So has one that the first passes ask for and
no later one: ComfyUI records a block in its second pass and replays it from the third on. A sampler may pass over blocks for a step or
two; only one that never comes back counts.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from .copy_fence import Gate

EARLY_PASSES = 2  # before anything can be replayed
LEAST_PASSES = 4  # below that nothing is said of later ones
MOST_PASSES = 6  # watched of one node
MOST_NODES = 2  # watched of one kind of models, where each has few passes


class Coverage:
    """The passes of one model in one node, from its load on. Holds no module: a strong reference would keep the model from being freed."""

    def __init__(self, modules: Iterable[Any]) -> None:
        self._modules = [weakref.ref(module) for module in modules]
        self._signatures = {id(module): module._v_signature for module in self._alive()}
        self._early: set[int] = set()
        self._late: set[int] = set()
        self.passes = 0

    def pass_ends(self, gate: Gate) -> str:
        """One pass has ended; a pass in which the gate has seen nothing of the model was another model's. Returns the evidence against it,
        empty for none."""
        modules = self._alive()
        asked, spans = gate.seen()
        seen = {id(module) for module in modules if id(module) in asked or _lies_in(spans, module)}
        filled = [module for module in modules if getattr(module, "_v_signature", None) is not self._signatures.get(id(module))]
        self._signatures.update((id(module), module._v_signature) for module in filled)
        behind = sum(id(module) not in seen for module in filled)
        if behind:
            return f"{behind} of {len(modules)} weights were filled without passing the gate"
        if seen:
            self.passes += 1
            (self._early if self.passes <= EARLY_PASSES else self._late).update(seen)
        return ""

    def ends(self) -> str:
        """No more passes: the evidence of all of them against it, empty for none."""
        gone = len(self._early - self._late) if self.passes >= LEAST_PASSES else 0
        return f"{gone} of {len(self._signatures)} weights passed the gate in the first passes and in no later one" if gone else ""

    def _alive(self) -> list[Any]:
        return [module for module in (one() for one in self._modules) if module is not None and hasattr(module, "_v")]


def _lies_in(spans: dict[int, list[tuple[int, int]]], module: Any) -> bool:
    buffer, address, size_bytes = module._v
    of_buffer = spans.get(id(buffer), [])
    index = bisect_right(of_buffer, (address, 2**64)) - 1
    return index >= 0 and address + size_bytes <= of_buffer[index][1]
