"""Host copies that stay: a model of the legacy patcher leaves the device without being copied back.

ComfyUI's legacy patcher moves weights: loading frees the host's copy, unloading copies the device's back into fresh, pageable memory.
Weights do not change while they are on the device (patched ones have their originals in the patcher's backup), so the host copy is
kept instead, pinned, and put back in place of the device's when the model leaves.

Measured on an H100: copying 23.8 GB back took 19 s.
"""

from __future__ import annotations

import weakref
from typing import Any

import comfy.model_management as model_management
import torch

MIN_PINNED_BYTES = 1024**2  # registering memory has a cost per call; small tensors gain nothing from it


class Snapshots:
    """The host copies of the models on the device, held as long as the model lives or until `forget`."""

    def __init__(self) -> None:
        self._copies: weakref.WeakKeyDictionary[Any, dict[str, torch.Tensor]] = weakref.WeakKeyDictionary()
        self._finalizers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def keep(self, patcher: Any) -> int:
        """Before a load: hold on to the host's copy of every weight that is there. Returns the bytes held of this model."""
        model = patcher.model
        copies = self._copies.setdefault(model, {})
        pinning = True
        for name, parameter in model.named_parameters():
            if parameter.device.type != "cpu" or parameter.is_meta or name in patcher.backup:
                continue
            known = copies.get(name)
            if known is not None and known.data_ptr() == parameter.data_ptr():
                continue
            if known is not None:
                _unpin_one(known)  # somebody has put another weight in its place
            copies[name] = parameter.data
            # the first refusal (the system's limit, memory that is a file's) speaks for the rest of the model
            if pinning and parameter.nbytes >= MIN_PINNED_BYTES and not parameter.data.is_pinned():
                pinning = bool(model_management.pin_memory(parameter.data))
        if model not in self._finalizers:
            self._finalizers[model] = weakref.finalize(model, _unpin, copies)
            self._finalizers[model].atexit = False
        return self.held_bytes(model)

    def restore(self, patcher: Any) -> int:
        """Before an unload: put the host copies in place of the weights on the device. Returns the bytes that need no copying back.

        Patched weights are left to ComfyUI: their originals come from the patcher's backup.
        """
        if patcher.hook_backup:
            return 0  # weights patched by hooks have their originals elsewhere
        copies = self._copies.get(patcher.model, {})
        restored_bytes = 0
        for name, parameter in patcher.model.named_parameters():
            copy = copies.get(name)
            if copy is None or name in patcher.backup or parameter.device.type == "cpu":
                continue
            if copy.shape == parameter.shape and copy.dtype == parameter.dtype:
                parameter.data = copy
                restored_bytes += copy.nbytes
        return restored_bytes

    def held_bytes(self, model: Any) -> int:
        return sum(tensor.nbytes for tensor in self._copies.get(model, {}).values())

    def forget(self, model: Any) -> int:
        """Give the host copy of a model that is on the device up; it will be copied back like stock's."""
        copies = self._copies.pop(model, {})
        freed_bytes = sum(tensor.nbytes for tensor in copies.values())
        finalizer = self._finalizers.pop(model, None)
        if finalizer is not None:
            finalizer()
        return freed_bytes

    def clear(self) -> None:
        """Give every host copy up."""
        for model in list(self._copies):
            self.forget(model)


def _unpin(copies: dict[str, torch.Tensor]) -> None:
    for tensor in copies.values():
        _unpin_one(tensor)
    copies.clear()


def _unpin_one(tensor: torch.Tensor) -> None:
    if tensor.data_ptr() in model_management.PINNED_MEMORY:
        model_management.unpin_memory(tensor)
