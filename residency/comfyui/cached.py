"""Results of earlier prompts in ComfyUI's cache, and the models in them.

With its default cache ComfyUI drops, after the first node of a prompt, every result of earlier ones that this prompt does not use, whatever
memory is free. With a loader's result its model goes, its pinned memory too, and the next prompt that wants it reads the files again: of a
queue in which two models of 23.8 GB take turns each prompt took 20 s more (H100, 126 GiB of RAM).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .models import model_of


def models_in(cache: Any) -> Iterator[tuple[Any, list[Any]]]:
    """(key, models) of each result in a cache of ComfyUI's that holds models."""
    for key, entry in cache.cache.items():
        models = list(_models(entry.outputs or ()))
        if models:
            yield key, models


def is_used(cache: Any, key: Any) -> bool:
    """Whether the running prompt uses that result of an LRU cache."""
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
