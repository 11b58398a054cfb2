"""Results of earlier prompts in ComfyUI's cache, and the models in them.

With its default cache ComfyUI drops, after the first node of a prompt, every result of earlier ones that this prompt does not use, whatever
memory is free. With a loader's result its model goes, its pinned memory too, and the next prompt that wants it reads the files again: of a
queue in which two models of 23.8 GB take turns each prompt took 20 s more (H100, 126 GiB of RAM).

A result that ComfyUI would have dropped is worth as much as its files: when the next prompt begins, and before ComfyUI looks into its
cache, a result is given up whose files are no longer those that it was loaded from. Without us the loader would run and read them. Results
that ComfyUI keeps by itself are used as they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import comfy.memory_management as memory_management
import psutil

from ...core.component import Component
from ...core.device_placement import Copies
from ...core.events import GivenUp, Kept
from ...graph.traits import links
from ...runtime import Runtime
from ...transfers import memory
from ..device.models import Models, model_of
from .model_files import loads_now
from .origins import Origin, Origins
from .running import RunningPrompt


class CachedResults:
    """Decides which of them stay while a prompt runs that does not use them. With the execution's lock held, on the executor's thread."""

    def __init__(self, runtime: Runtime, models: Models) -> None:
        self._runtime = runtime
        self._models = models
        self.origins = Origins()
        self._cache: Callable[[], Any] = lambda: None  # a weak reference: ComfyUI makes a new one when it is told to free memory
        self._spared: set[Any] = set()  # keys of what ComfyUI would have dropped, until a prompt has used it
        self._given_up: list[tuple[Component, str]] = []  # not told yet

    def prompt_begins(self) -> None:
        """ComfyUI is about to look for results: none may be there that it would have dropped, and would not make again."""
        try:
            self._look_at_files(self._cache())
        except Exception:
            self.forget()  # what nobody can answer for must not be used
            raise

    def _look_at_files(self, cache: Any) -> None:
        self._given_up.clear()
        for key in [*self._spared]:
            entry = None if cache is None else cache.cache.get(key)
            if entry is None:
                self._spared.discard(key)
                continue
            origin = self.origins.of_result(key, entry.outputs)
            change = self._change(origin)
            if change is not None:
                self._give_up(cache, key)
                if origin is not None:
                    self._given_up.append((origin.loads.components[0][0], change))

    def tell(self) -> None:
        """Tell the trace of the new prompt which components were given up for it."""
        for component, reason in dict(self._given_up).items():
            self._runtime.tell(GivenUp(self._runtime.clock(), component, reason))
        self._given_up.clear()

    def forget(self) -> None:
        """ComfyUI decides alone from now on: results still here for us go. No prompt may be running."""
        cache = self._cache()
        for key in [*self._spared]:
            self._give_up(cache, key)
        self._given_up.clear()

    def prompt_ends(self, execution_list: Any) -> None:
        """It has ended with success. The spared results that it has used ComfyUI would have made for it, and keeps now."""
        if not self._spared:
            return
        keys = execution_list.output_cache.cache_key_set
        used, linked = set(), [*execution_list.execution_cache_listeners]  # the nodes whose results others were given
        while linked:
            node_id = linked.pop()
            key = keys.get_data_key(node_id)
            if node_id not in used and key in self._spared:
                used.add(node_id)  # and what it was made of, which would have run before it
                linked += [source for _, source, _ in links(execution_list.dynprompt.get_node(node_id))]
        self._spared.difference_update([keys.get_data_key(node_id) for node_id in used])

    def spared(self, prompt: RunningPrompt, cache: Any, target_bytes: int) -> list[Any]:
        """ComfyUI is about to drop results that the prompt does not use if less than `target_bytes` are available: keys of the results
        whose models something in the queue needs again."""
        manager = self._runtime.manager
        if prompt.graph is None or not (prompt.ahead.queue or manager.kept):
            return []
        if prompt.unused is None:  # while a prompt runs it only gets fewer: a thousand results are not gone through at each of its nodes
            prompt.unused = self._components((key, entry) for key, entry in cache.cache.items() if not _is_used(cache, key))
        unused = {key: found for key, found in prompt.unused.items() if key in cache.cache and not _is_used(cache, key)}
        # asked while there is memory; with a budget of the user's, which says nothing of what is held already, ComfyUI decides.
        # images of pages fill host memory down to that headroom: what they hold is worth no less for it
        short = memory.available_bytes() < memory_management.RAM_CACHE_HEADROOM and manager.placement.copies is Copies.BOTH
        if short or prompt.settings.host_budget_bytes is not None:
            return []
        spared = []
        for key, components in unused.items():
            needed = {component: reason for component in components if (reason := manager.needed_again(component))}
            if not needed or not self._may_stay(prompt, key, cache.cache[key]):
                continue
            spared.append(key)
            for component in needed.keys() - prompt.kept:
                prompt.kept.add(component)
                kept = prompt.graph.components.get(component) or manager.kept[component]
                self._runtime.tell(Kept(self._runtime.clock(), kept, needed[component]))
        if psutil.virtual_memory().available < target_bytes:  # else ComfyUI keeps them by itself
            self._cache = weakref.ref(cache)
            self._spared.update(spared)
        return spared

    def _may_stay(self, prompt: RunningPrompt, key: Any, entry: Any) -> bool:
        """Whether all that the result was made of is known and has not changed; asked once a prompt."""
        if key not in prompt.may_stay:
            origin = self.origins.of_result(key, entry.outputs)
            change = self._change(origin)
            if change is not None and origin is not None and origin.makers is not None:
                self._runtime.tell(GivenUp(self._runtime.clock(), origin.loads.components[0][0], change))
            prompt.may_stay[key] = change is None
        return prompt.may_stay[key]

    def _change(self, origin: Origin | None) -> str | None:
        """Why its nodes would make another result now; None where they would not."""
        if origin is None or origin.makers is None:
            return "it was made of something that is not known"
        return next((change for maker in origin.makers if (change := maker.change(loads_now)) is not None), None)

    def _give_up(self, cache: Any, key: Any) -> None:
        self._spared.discard(key)
        if cache is not None:
            for kept_by_key in (cache.cache, cache.used_generation, cache.timestamps, cache.children):
                kept_by_key.pop(key, None)

    def dropped(self, prompt: RunningPrompt, cache: Any) -> None:
        """ComfyUI has dropped results: models that went with them are read again at their next use."""
        if prompt.graph is None or not prompt.unused:
            return
        gone = set(chain.from_iterable([prompt.unused.pop(key) for key in [*prompt.unused] if key not in cache.cache]))
        if not gone:
            return
        gone -= set(chain.from_iterable(self._components(cache.cache.items()).values()))
        prompt.graph.dropped |= gone
        session = self._runtime.session
        if any(session.timeline.next_use(component, session.position) is not None for component in gone):
            prompt.changed = True  # a new plan at the next node

    def _components(self, results: Iterable[tuple[Any, Any]]) -> dict[Any, list[str]]:
        """Components of the models in each result, by the result's cache key."""
        found = {key: [self._models.key_of_model(model) for model in _models(entry.outputs or ())] for key, entry in results}
        return {key: known for key, components in found.items() if (known := [one for one in components if one is not None])}


def _is_used(cache: Any, key: Any) -> bool:
    """Whether the running prompt uses that result."""
    return bool(cache.used_generation.get(key) == cache.generation)


def _models(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _models(value)
        else:
            model = model_of(value)
            if model is not None:
                yield model


@contextmanager
def as_if_used(cache: Any, keys: Iterable[Any]) -> Iterator[None]:
    """While this is open these results count as used by the running prompt."""
    before = {key: cache.used_generation[key] for key in keys}
    cache.used_generation.update(dict.fromkeys(before, cache.generation))
    try:
        yield
    finally:
        cache.used_generation.update(before)
