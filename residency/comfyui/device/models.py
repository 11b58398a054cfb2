"""ComfyUI's models by component, learnt from the outputs of the loader nodes.

Models are held by weak reference: a strong one would keep ComfyUI from freeing them and make it log memory leaks.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import comfy.model_management as model_management
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...core.component import Component


class Models:
    """Component key -> the torch modules that ComfyUI manages for it."""

    def __init__(self) -> None:
        self._models: dict[str, weakref.WeakSet[Any]] = {}

    def learn(self, loads: Iterable[tuple[Component, str | None]], outputs: Iterable[Any], output_types: Collection[str]) -> frozenset[str]:
        """Remember which models a loader node made: `outputs` has one list of values per output slot.

        Returns the link types of which it was taken to make a model, in a pipe that can be looked into, and has made none.
        """
        by_type: dict[str, list[Any]] = {}
        in_pipes: dict[str, list[Any]] = {}
        for values, made_type in zip(outputs, output_types, strict=False):
            for value in values if isinstance(values, list | tuple) else (values,):
                for kind, model in _models_in(value, made_type):
                    by_type.setdefault(made_type, []).append(model)
                    if kind != made_type:
                        in_pipes.setdefault(kind, []).append(model)
        not_made = set()
        for component, output_type in loads:
            if component.kind == "LORA":
                continue  # lives inside the models it patches
            if output_type is None:
                models = [model for found in by_type.values() for model in found]
            else:
                models = by_type.get(output_type) or in_pipes.get(output_type, [])
                if not models and in_pipes and output_type not in output_types:
                    not_made.add(output_type)
            self._models.setdefault(component.key, weakref.WeakSet()).update(models)
        return frozenset(not_made)

    def alive(self) -> list[str]:
        """Components of which a model is still alive."""
        return [key for key in self._models if self.is_alive(key)]

    def is_alive(self, key: str) -> bool:
        """Whether a model of the component is still alive. On any thread."""
        return len(self._models.get(key, ())) > 0

    def key_of(self, value: Any) -> str | None:
        """The component behind a MODEL, CLIP, VAE or ControlNet value, or behind ComfyUI's model itself; None for an unknown one."""
        model = model_of(value)
        return self.key_of_model(value if model is None else model)

    def key_of_model(self, model: Any) -> str | None:
        return next((key for key, models in self._models.items() if model in models), None)

    def loaded(self, key: str) -> Iterator[Any]:
        """ComfyUI's LoadedModel entries of the component, newest first; none when it is not loaded."""
        models = set(map(id, self._models.get(key, ())))
        for entry in list(model_management.current_loaded_models) if models else ():
            if entry.model is not None and id(entry.model.model) in models:
                yield entry

    def clear(self) -> None:
        self._models.clear()


_PIPE_DEPTH = 3  # pipes are dictionaries or tuples, with dictionaries of settings inside


def _models_in(value: Any, made_type: str, depth: int = _PIPE_DEPTH) -> Iterator[tuple[str, Any]]:
    """(link type, model) of the value itself, or of the values of core's types that a pipe holds."""
    model = model_of(value)
    if model is not None:
        yield made_type if depth == _PIPE_DEPTH else _type_of(value), model
    elif depth and isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _models_in(inner, made_type, depth - 1)


def _type_of(value: Any) -> str:
    return "CLIP" if isinstance(value, CLIP) else "VAE" if isinstance(value, VAE) else "MODEL" if isinstance(value, ModelPatcher) else ""


def model_of(value: Any) -> Any | None:
    """The torch module that ComfyUI manages behind a MODEL, CLIP, VAE or ControlNet value; None for anything else."""
    for candidate in (value, getattr(value, "patcher", None), getattr(value, "control_model_wrapped", None)):
        if isinstance(candidate, ModelPatcher):
            return candidate.model
    return None
