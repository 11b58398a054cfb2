"""Results of earlier prompts in ComfyUI's cache, and the models in them.

With its default cache ComfyUI drops, after the first node of a prompt, every result of earlier ones that this prompt does not use, whatever
memory is free. With a loader's result its model goes, its pinned memory too, and the next prompt that wants it reads the files again: of a
queue in which two models of 23.8 GB take turns each prompt took 20 s more (H100, 126 GiB of RAM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import comfy.memory_management as memory_management

from ..runtime import Runtime
from ..transfers import memory
from .models import Models, model_of
from .running import RunningPrompt


class CachedResults:
    """Decides which of them stay while a prompt runs that does not use them. With the host's lock held, on the executor's thread."""

    def __init__(self, runtime: Runtime, models: Models, one_copy: Callable[[], bool]) -> None:
        """`one_copy()`: whether weights lie on the device or in host memory, not in both."""
        self._runtime = runtime
        self._models = models
        self._one_copy = one_copy

    def spared(self, prompt: RunningPrompt, cache: Any) -> list[Any]:
        """ComfyUI is about to drop what the prompt does not use: keys of the results whose models something in the queue needs again."""
        manager = self._runtime.manager
        if prompt.graph is None or not (prompt.ahead.queue or manager.kept):
            return []
        if prompt.unused is None:  # while a prompt runs it only gets fewer: a thousand results are not gone through at each of its nodes
            prompt.unused = self._components((key, entry) for key, entry in cache.cache.items() if not _is_used(cache, key))
        unused = {key: found for key, found in prompt.unused.items() if key in cache.cache and not _is_used(cache, key)}
        # asked while there is memory; with a budget of the user's, which says nothing of what is held already, ComfyUI decides.
        # images of pages fill host memory down to that headroom: what they hold is worth no less for it
        one_copy = self._one_copy()
        short = memory.available_bytes() < memory_management.RAM_CACHE_HEADROOM and not one_copy
        if short or prompt.settings.host_budget_bytes is not None:
            return []
        spared = []
        for key, components in unused.items():
            needed = {component: reason for component in components if (reason := manager.needed_again(component, one_copy=one_copy))}
            if needed:
                spared.append(key)
            for component in needed.keys() - prompt.kept:
                prompt.kept.add(component)
                self._runtime.kept(prompt.graph.components.get(component) or manager.kept[component], needed[component])
        return spared

    def dropped(self, prompt: RunningPrompt, cache: Any) -> None:
        """ComfyUI has dropped what it wanted: what went with it is read again at its next use."""
        if prompt.graph is None or not prompt.unused:
            return
        gone = set(chain.from_iterable([prompt.unused.pop(key) for key in [*prompt.unused] if key not in cache.cache]))
        if not gone:
            return
        gone -= set(chain.from_iterable(self._components(cache.cache.items()).values()))
        prompt.graph.dropped |= gone
        if any(prompt.timeline.next_use(component, prompt.position) is not None for component in gone):
            prompt.changed = True  # a new plan at the next node

    def _components(self, results: Iterable[tuple[Any, Any]]) -> dict[Any, list[str]]:
        """Of each result that holds models: their components, by its key."""
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
