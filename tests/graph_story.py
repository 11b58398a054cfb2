"""ComfyUI's executor as a plain model, and what its live list holds of a drawn prompt, for the tests of the order."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from residency.graph import Grouping, NodeTraits
from residency.graph.grouping import FEEDS_FEEDER, FEEDS_OUTPUT, REST, URGENT

Prompt = dict[str, dict[str, Any]]


class SlowExecutor:
    """ComfyUI's list of pending nodes (comfy_execution/graph.py), looked through anew for each choice and without any cleverness."""

    def __init__(
        self,
        prompt: Prompt,
        traits: Callable[[str], NodeTraits | None],
        cached: Container[str] = frozenset(),
        grouping: Grouping | None = None,
    ) -> None:
        self._prompt = prompt
        self._traits = {node_id: traits(node["class_type"]) or NodeTraits() for node_id, node in prompt.items()}
        self._cached = cached
        self.grouping = None if grouping is None else grouping.copy()
        self.pending: list[str] = []
        self.waits: dict[str, set[str]] = {}  # node -> the pending nodes that it waits for
        self.outside: set[str] = set()  # nodes that wait for a task as well
        self.done: list[str] = []
        self.turns: list[tuple[str, int | None]] = []
        self._asked: set[str] = set()

    def add(self, node_id: str) -> None:
        stack, found = [node_id], []
        while stack:
            one = stack.pop()
            if one in self.pending:
                continue
            self.pending.append(one)
            self.waits[one] = set()
            for name, value in self._prompt[one]["inputs"].items():
                if isinstance(value, list) and name not in self._traits[one].lazy and not self._has_run(value[0]):
                    stack.append(value[0])
                    found.append((value[0], one))
        for source, target in found:
            self.waits[target].add(source)

    def run(self, wanted: Callable[[str, Any], Iterable[str]] | None = None, steps: int | None = None) -> list[str]:
        """Nodes in the order in which they run, at most so many; without `wanted` none asks for a lazy input."""
        while self.pending and (steps is None or len(self.done) < steps):
            ready = [node_id for node_id in self.pending if not self.waits[node_id] and node_id not in self.outside]
            if not ready:
                free = {node_id for node_id in self.outside & set(self.pending) if not self.waits[node_id]}
                if not free:
                    break
                self.outside -= free
                continue
            own = min(ready, key=self.rank)
            chosen = own if self.grouping is None else self.grouping.choose(own, ready, self.rank)
            if wanted is not None and self._asks(chosen, wanted):
                self.turns.append((chosen, len(self.waits[chosen])))
                continue
            self.turns.append((chosen, None))
            self.done.append(chosen)
            self.pending.remove(chosen)
            for waits in self.waits.values():
                waits.discard(chosen)
            if self.grouping is not None:
                self.grouping.ran(chosen)
        return self.done

    def rank(self, node_id: str) -> int:
        own = self._traits[node_id]
        if own.is_output or own.is_async:
            return URGENT
        if any(self._traits[target].is_output for target in self.fed_by(node_id)):
            return FEEDS_OUTPUT
        fed = [further for target in self.fed_by(node_id) for further in self.fed_by(target)]
        return FEEDS_FEEDER if any(self._traits[further].is_output for further in fed) else REST

    def fed_by(self, node_id: str) -> list[str]:
        return [target for target in self.pending if node_id in self.waits[target]]

    def _asks(self, node_id: str, wanted: Callable[[str, Any], Iterable[str]]) -> bool:
        if node_id in self._asked:
            return False
        self._asked.add(node_id)
        inputs, lazy = self._prompt[node_id]["inputs"], self._traits[node_id].lazy
        names = [name for name in wanted(node_id, self._prompt[node_id]) if name in lazy and isinstance(inputs.get(name), list)]
        for name in names:
            if not self._has_run(inputs[name][0]):
                self.add(inputs[name][0])
                self.waits[node_id].add(inputs[name][0])
        return bool(names)

    def _has_run(self, node_id: str) -> bool:
        return node_id in self.done or node_id in self._cached


def live_list(
    prompt: dict[str, Any], outputs: Iterable[str], done: Sequence[str]
) -> tuple[list[str], dict[str, int], dict[str, dict[str, Any]]]:
    """(pending nodes in the order of their insertion, how many each waits for, whom each holds up) once the nodes of `done` have run."""
    inserted: list[str] = []
    for output in outputs:
        stack = [output]
        while stack:
            node_id = stack.pop()
            if node_id not in inserted:
                inserted.append(node_id)
                stack += [value[0] for value in prompt[node_id]["inputs"].values()]
    pending = [node_id for node_id in inserted if node_id not in done]
    blocking: dict[str, dict[str, Any]] = {n: {t: {} for t in pending if [n, 0] in prompt[t]["inputs"].values()} for n in pending}
    return pending, {n: sum(n in targets for targets in blocking.values()) for n in pending}, blocking
