"""What lies where: bytes of ComfyUI's models on the device and in host memory, and what both have left.

A dynamic model's weights lie in pages of the device and in pinned host buffers; a legacy model's where its patcher has put them.
"""

from __future__ import annotations

from typing import Any

import comfy.memory_management as memory_management
import comfy.model_management as model_management

from ...transfers import memory

# Host copies of models on the device are kept while this much memory is available beside them.
SNAPSHOT_HEADROOM_BYTES = 4 * 1024**3
PINNED_SHARE = 0.98  # of a model's bytes: what is pinned by then counts as all of it; pages are rounded up, small tensors kept elsewhere


def device_bytes(patcher: Any) -> int:
    """Bytes of the model's weights on a device of their own."""
    if patcher.load_device == patcher.offload_device and not patcher.is_dynamic():
        return 0
    return int(patcher.loaded_size())


def copied_bytes(patcher: Any) -> int:
    """Bytes of the model's weights that have a copy in host memory: pinned ones of a dynamic model, all that a legacy one has on the device
    (its host copy stays, or is made when it leaves)."""
    there = device_bytes(patcher)
    if not patcher.is_dynamic():
        return there
    buffer, pinned = patcher._vbar_get(), _pinned_bytes(patcher, "weights") + _pinned_bytes(patcher, "weights-loaded")
    return max(pinned, there) if buffer is not None and pinned >= PINNED_SHARE * buffer.offset else pinned


def resident_bytes(patcher: Any, images_bytes: int) -> int:
    """Bytes that need no reading: on a device of their own, in the pinned host buffers of a dynamic model, or in images of its pages."""
    if patcher.is_dynamic():
        # "weights-loaded" pins are of weights that were on the device when they were pinned: the same bytes, counted once
        both = max(int(patcher.loaded_size()), _pinned_bytes(patcher, "weights-loaded"))
        return _pinned_bytes(patcher, "weights") + both + images_bytes
    return device_bytes(patcher)


def device_memory_bytes() -> int | None:
    """All memory of the device; None where it has none of its own."""
    device = model_management.get_torch_device()
    if model_management.is_device_cpu(device) or model_management.is_device_mps(device):
        return None
    return int(model_management.get_total_memory(device))


def device_limit_bytes(headroom_bytes: int = 0) -> int | None:
    """Bytes of weights that the device may hold beside the headroom; None where the device has no memory of its own."""
    total_bytes = device_memory_bytes()
    return None if total_bytes is None else max(0, int(total_bytes - model_management.minimum_inference_memory()) - headroom_bytes)


def spare_bytes() -> int:
    """Host memory that copies of weights may still take: below its own headroom ComfyUI drops cached results and pins to get it back."""
    return memory.available_bytes() - max(SNAPSHOT_HEADROOM_BYTES, int(memory_management.RAM_CACHE_HEADROOM))


def pinned_in_all() -> int:
    """Bytes that ComfyUI has pinned."""
    return int(model_management.TOTAL_PINNED_MEMORY)


def _pinned_bytes(patcher: Any, subset: str) -> int:
    """Bytes of one subset of a dynamic model's pinned host buffers; v0.26 has fewer subsets than v0.33."""
    pins = patcher.model.dynamic_pins[patcher.load_device]
    return int(pins[subset][0].size) if subset in pins else 0
