"""The device mover of the ComfyUI host: gives a component's device memory back, at node boundaries, on the executor thread.

Prefetching to the device is left to ComfyUI here. Models are held by weak reference: a strong one would keep ComfyUI from freeing
them and make it log memory leaks.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import comfy.model_management as model_management
from comfy.model_patcher import ModelPatcher

from ..component import Component, Tier
from ..events import Cancel, Event, Evict, Evicted, Prefetch, TransferStopped

log = logging.getLogger("residency")


class DeviceMover:
    """Answers Evict(DEVICE); learns which models belong to a component from the outputs of its loader node."""

    def __init__(self, post: Callable[[Event], Any], clock: Callable[[], float]) -> None:
        self._post = post
        self._clock = clock
        self._models: dict[str, weakref.WeakSet[Any]] = {}

    def learn(self, loads: Iterable[tuple[Component, str | None]], outputs: Iterable[Any], output_types: Iterable[str]) -> None:
        """Remember which models a loader node made: `outputs` has one list of values per output slot."""
        by_type: dict[str, list[Any]] = {}
        for values, made_type in zip(outputs, output_types, strict=False):
            for value in values if isinstance(values, list | tuple) else (values,):
                model = _model_of(value)
                if model is not None:
                    by_type.setdefault(made_type, []).append(model)
        for component, output_type in loads:
            if component.kind == "LORA":
                continue  # lives inside the models it patches
            models = by_type.get(output_type, []) if output_type else [model for found in by_type.values() for model in found]
            self._models.setdefault(component.key, weakref.WeakSet()).update(models)

    def key_of(self, value: Any) -> str | None:
        """The component whose model is behind a value on a link; None for what no loader node of this process made."""
        model = _model_of(value)
        return next((key for key, models in self._models.items() if model in models), None) if model is not None else None

    def resident_bytes(self, key: str) -> int:
        """Bytes of a dynamic model's weights that need no reading: on the device, or in its pinned host buffer."""
        models = set(map(id, self._models.get(key, ())))
        resident_bytes = 0
        for loaded in model_management.current_loaded_models:
            patcher = loaded.model
            if patcher is not None and id(patcher.model) in models and patcher.is_dynamic():
                pins = patcher.model.dynamic_pins[patcher.load_device]
                # "weights-loaded" pins are of weights that were on the device when they were pinned: the same bytes, counted once
                both_bytes = max(patcher.loaded_size(), _pinned_bytes(pins, "weights-loaded"))
                resident_bytes = max(resident_bytes, _pinned_bytes(pins, "weights") + both_bytes)
        return resident_bytes

    def prefetch(self, instruction: Prefetch) -> Future[None]:
        future: Future[None] = Future()
        reason = "this host does not prefetch to the device"
        self._post(TransferStopped(self._clock(), instruction.component.key, Tier.DEVICE, 0, 0, 0.0, reason))
        future.set_result(None)
        return future

    def cancel(self, instruction: Cancel) -> None:
        pass

    def evict(self, instruction: Evict) -> None:
        key = instruction.component.key
        freed_bytes = 0
        refusal = ""
        models = set(map(id, self._models.get(key, ())))
        for loaded in list(model_management.current_loaded_models):
            patcher = loaded.model
            if patcher is None or id(patcher.model) not in models:
                continue
            if patcher.load_device == patcher.offload_device and not patcher.is_dynamic():
                refusal = "its device shares the host's memory: leaving it would free nothing"
                continue
            before_bytes = patcher.loaded_size()
            if patcher.is_dynamic():
                # its pinned host copy stays: unloading the model whole would drop that as well, and the next use would read the file
                patcher.partially_unload(patcher.offload_device, before_bytes)
            elif loaded.model_unload():
                model_management.current_loaded_models.remove(loaded)
            freed_bytes += max(0, before_bytes - patcher.loaded_size())
        if freed_bytes:
            model_management.soft_empty_cache()
        reason = instruction.reason if freed_bytes else refusal or "nothing of it is on the device"
        self._post(Evicted(self._clock(), key, Tier.DEVICE, freed_bytes, reason))

    def progress(self, key: str) -> int:
        return 0

    def close(self) -> None:
        self._models.clear()


def _pinned_bytes(pins: Any, subset: str) -> int:
    """Bytes of one subset of a dynamic model's pinned host buffers; v0.26 has fewer subsets than v0.33."""
    return int(pins[subset][0].size) if subset in pins else 0


def _model_of(value: Any) -> Any | None:
    """The torch module that ComfyUI manages behind a MODEL, CLIP, VAE or ControlNet value; None for anything else."""
    for candidate in (value, getattr(value, "patcher", None), getattr(value, "control_model_wrapped", None)):
        if isinstance(candidate, ModelPatcher):
            return candidate.model
    return None
