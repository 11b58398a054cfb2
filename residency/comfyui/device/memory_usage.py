"""Bytes of ComfyUI's models on the device and in host memory, and the bytes that both have left.

A dynamic model's weights lie in pages of the device and in pinned host buffers; a legacy model's where its patcher has put them.
"""

from __future__ import annotations

from typing import Any

import comfy.memory_management as memory_management
import comfy.model_management as model_management
import torch

from ...transfers import machine, memory
from .kinds import pin_subsets

# Host copies of models on the device are kept while this much memory is available beside them.
SNAPSHOT_HEADROOM_BYTES = 4 * 1024**3
# Beside ComfyUI's own headroom. With nothing beside it, the pins that a model gets while it computes were given up again behind its node,
# 0.7 GB of 11.9, and read from the drive in each prompt (H100, 12 GiB of it, 32 GB of RAM).
PINS_MARGIN_BYTES = 1024**3
PINS_OF_WEIGHTS, PINS_OF_PATCHES, LOADED = "weights", "patches", "-loaded"  # how the names of pinned buffers begin and end
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
    buffer, pinned = patcher._vbar_get(), sum(pinned_bytes(patcher))
    return max(pinned, there) if buffer is not None and pinned >= PINNED_SHARE * buffer.offset else pinned


def resident_bytes(patcher: Any, images_bytes: int) -> int:
    """Bytes that need no reading: on a device of their own, in the pinned host buffers of a dynamic model, or in images of its pages."""
    if patcher.is_dynamic():
        # pins of what was on the device when it was pinned are of the same bytes, counted once
        streamed_bytes, loaded_bytes = pinned_bytes(patcher)
        return streamed_bytes + max(int(patcher.loaded_size()), loaded_bytes) + images_bytes
    return device_bytes(patcher)


def shares_host_memory(device: torch.device) -> bool:
    """Whether that device's memory is the host's: then each byte would be counted twice, and copied for nothing."""
    if device.type in ("cpu", "mps"):
        return True
    try:
        return bool(getattr(torch.get_device_module(device).get_device_properties(device), "is_integrated", False))
    except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError):  # a device that torch tells nothing of
        return False


def device_lacks() -> list[machine.Lack]:
    """The lacks of a device without memory of its own, or without torch's API for streams and events; none of a CPU, of which nothing is
    expected."""
    device = model_management.get_torch_device()
    if device.type == "cpu":
        return []
    if shares_host_memory(device):
        why = f"{device.type} shares the host's memory: files are read ahead, nothing is copied or kept twice"
        return [machine.Lack("unified memory", why)]
    if device.type != "cuda":  # ROCm's are called so too
        why = (
            f"{device.type} is reached by another part of torch than the pack's copies are made with: files are read ahead, ComfyUI copies"
        )
        return [machine.Lack("weights brought to the device", why)]
    return []


def computes_without_device() -> str:
    """Why there is no device to bring weights to; empty where there is one."""
    return "ComfyUI computes on the CPU" if model_management.get_torch_device().type == "cpu" else ""


def device_memory_bytes() -> int | None:
    """All memory of the device; None where it has none of its own."""
    device = model_management.get_torch_device()
    if shares_host_memory(device):
        return None
    return int(model_management.get_total_memory(device))


def device_limit_bytes(headroom_bytes: int = 0) -> int | None:
    """Bytes of weights that the device may hold beside the headroom; None where the device has no memory of its own."""
    total_bytes = device_memory_bytes()
    return None if total_bytes is None else max(0, int(total_bytes - model_management.minimum_inference_memory()) - headroom_bytes)


def spare_bytes(needed_bytes: int) -> int:
    """Host memory that copies of weights may still take. `needed_bytes`: that everything else needs. Below its own headroom ComfyUI drops
    cached results and pins to get it back."""
    comfyui_bytes = int(memory_management.RAM_CACHE_HEADROOM)
    return memory.holdable_bytes() - max(needed_bytes, comfyui_bytes and comfyui_bytes + PINS_MARGIN_BYTES)


def pinnable_bytes() -> int | None:
    """Bytes that may be pinned beside those pinned already, by ComfyUI or us; None: the system has no limit of its own."""
    most_bytes = memory.host_memory().pinnable_bytes
    return None if most_bytes is None else max(0, most_bytes - pinned_in_all())


def pinned_in_all() -> int:
    """Bytes that ComfyUI has pinned."""
    return int(model_management.TOTAL_PINNED_MEMORY)


def buffers_bytes(patcher: Any) -> int:
    """Bytes of all pinned host buffers of a dynamic model, those of its patches among them."""
    pins = patcher.model.dynamic_pins[patcher.load_device]
    return sum(int(pins[name][0].size) for beginning in (PINS_OF_WEIGHTS, PINS_OF_PATCHES) for name in pin_subsets(pins, beginning))


def pinned_bytes(patcher: Any) -> tuple[int, int]:
    """Bytes of a dynamic model's pinned host buffers of weights: of weights that do not fit on the device, and of those that lay there when
    they were pinned. Versions have one, two or more of them, under names that begin alike."""
    pins = patcher.model.dynamic_pins[patcher.load_device]
    sizes = {name: int(pins[name][0].size) for name in pin_subsets(pins, PINS_OF_WEIGHTS)}
    loaded_bytes = sum(size_bytes for name, size_bytes in sizes.items() if name.endswith(LOADED))
    return sum(sizes.values()) - loaded_bytes, loaded_bytes
