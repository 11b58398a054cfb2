"""Host -> device copies of a dynamic model ahead of its use: from ComfyUI's pinned buffers into the pages of its virtual device buffer.

Everything here runs on the executor thread, between nodes or between the steps of one; only the copies themselves run beside the
computation, on a stream of their own. Weights found on the device when the model is used are used; the others ComfyUI loads itself:
the bytes and their layout are those of comfy.ops, so either way gives the same image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import comfy.memory_management as memory_management
import comfy.pinned_memory as pinned_memory
import comfy_aimdo.model_vbar as model_vbar
import torch

from . import kinds
from .copy_fence import Gate
from .cuda import Cuda
from .memory_usage import PINS_OF_WEIGHTS

PAGE_BYTES = 32 * 1024**2  # of a virtual device buffer (comfy-aimdo)


class Stop(Enum):
    """Why copying ended. ROOM is for now, the others are for good."""

    END = "all that was asked for is on the device"
    ROOM = "there is no more room on the device"
    UNPINNED = "a part of it is not in pinned memory"
    UNKNOWN = "ComfyUI has not loaded it yet"
    RECORDED = kinds.RECORDED


@dataclass(frozen=True, slots=True)
class Progress:
    """`moved_bytes` were copied now; the model's first `resident_bytes` of `total_bytes` are on the device, or were passed over."""

    moved_bytes: int
    resident_bytes: int
    total_bytes: int
    stop: Stop


Pinned = tuple[Any, torch.Tensor | None]  # a module, and its bytes in pinned memory


def weight_modules(patcher: Any) -> list[Any]:
    """The modules of a dynamic model that have a place in its virtual device buffer, in the order of their addresses."""
    modules = [module for module in patcher.model.modules() if hasattr(module, "_v")]
    modules.sort(key=lambda module: module._v[1])
    return modules


def first_outside(buffer: Any, outside_bytes: int) -> int:
    """The number of pages in front of the last `outside_bytes` of a model's virtual device buffer."""
    return -(-max(0, int(buffer.offset) - outside_bytes) // PAGE_BYTES)


def is_complete(patcher: Any) -> bool:
    """Whether every page of the model is mapped: then there is nothing to copy, and looking at each module would cost 20 ms."""
    buffer = patcher._vbar_get()
    return buffer is not None and buffer.loaded_size() >= buffer.offset


def pin_of(module: Any) -> torch.Tensor | None:
    """The module's bytes in pinned host memory, ready for a copy; None when they are not there."""
    pins = module.__dict__.get("_pins")
    for subset, found in pins.items() if pins else ():
        if subset.startswith(PINS_OF_WEIGHTS) and found.get("pin") is not None:
            registered: torch.Tensor | None = pinned_memory.get_pin(module, subset=subset)
            return registered
    return None


def is_plain(module: Any) -> bool:
    """Whether the device copy is the host copy: no patch to apply, no other type to cast to."""
    for name in ("weight", "bias"):
        if getattr(module, f"{name}_lowvram_function", None) is not None or getattr(module, f"{name}_function", None):
            return False
        weight = getattr(module, name, None)
        if weight is not None and getattr(weight, "_model_dtype", weight.dtype) != weight.dtype:
            return False
    return True


def shares_its_place(modules: list[Any]) -> set[int]:
    """Numbers of those of the modules, in the order of their addresses, whose bytes another one has as well: no pin holds them all."""
    shared: set[int] = set()
    end, last = 0, None
    for module in modules:
        _, address, size_bytes = module._v
        if last is not None and address < end:
            shared |= {id(last), id(module)}
        if address + size_bytes > end:
            end, last = address + size_bytes, module
    return shared


def onload(patcher: Any, cuda: Cuda, stream: torch.cuda.Stream, gate: Gate, room_bytes: int, size_bytes: int) -> Progress:
    """Copy on that stream those of the model's first `size_bytes` that are not on the device, taking at most `room_bytes` of free device
    memory.

    The gate, or where it is open the caller, sees to it that the model computes only with weights that have arrived. Never reads a file,
    never pushes another model out: it stops where the pinned bytes, the room or the size end.
    """
    buffer = patcher._vbar_get()
    modules = weight_modules(patcher)
    total_bytes = sum(module._v[2] for module in modules)
    if buffer is None or not modules:
        return Progress(0, 0, total_bytes, Stop.UNKNOWN)
    if buffer.get_watermark() < buffer.get_nr_pages():
        buffer.set_watermark(buffer.max_size)  # what was freed under pressure may be filled again
    chosen, stop = _within(modules, buffer.get_residency(), room_bytes, size_bytes)
    moved_bytes = resident_bytes = 0
    places = _Places(buffer, cuda)
    with cuda.on(stream):
        for module, pin in _lowest_then_as_computed(patcher, chosen):
            signature = model_vbar.vbar_fault(module._v)
            if signature is None:
                stop = Stop.ROOM
                break
            try:
                place = places.of(module)
                if pin is not None and not model_vbar.vbar_signature_compare(signature, module._v_signature):
                    # one copy of the gathered bytes: the pin holds weight and bias as the device buffer does
                    cuda.copy(place[: pin.numel()], pin)
                    gate.announce(module, stream)  # before ComfyUI may take the bytes for its own: a failure here leaves the module to it
                    _hand_over(module, signature, place)
                    moved_bytes += module._v[2]
                resident_bytes += module._v[2]
            finally:
                model_vbar.vbar_unpin(module._v)
    return Progress(moved_bytes, resident_bytes, total_bytes, stop)


def _within(modules: list[Any], residency: list[int], room_bytes: int, size_bytes: int) -> tuple[list[Pinned], Stop]:
    """The first modules by their addresses that are on the device or find room there, each with its pin; why no more."""
    found: list[Pinned] = []
    shared = shares_its_place(modules)
    stop, found_bytes = Stop.END, 0
    for module in modules:
        if found_bytes >= size_bytes:
            break
        missing = [page for page in pages_of(module) if page < len(residency) and not residency[page] & 1]
        pin = pin_of(module) if id(module) not in shared and is_plain(module) else None
        if pin is not None and pin.numel() > module._v[2]:
            pin = None  # laid out otherwise than the place on the device
        if pin is None and missing:
            stop = Stop.UNPINNED  # the others may still come: ComfyUI computes with what it finds, layer by layer
            continue
        room_bytes -= len(missing) * PAGE_BYTES
        if room_bytes < 0:
            stop = Stop.ROOM
            break
        for page in missing:
            residency[page] = 1
        found.append((module, pin))
        found_bytes += module._v[2]
    return found, stop


def _lowest_then_as_computed(patcher: Any, chosen: list[Pinned]) -> list[Pinned]:
    """The chosen in the order in which a pass computes with them; before them the one with the lowest address, see `_Places`."""
    pins = {id(module): pin for module, pin in chosen}
    return chosen[:1] + [
        (module, pins[id(module)]) for module in patcher.model.modules() if id(module) in pins and module is not chosen[0][0]
    ]


def pages_of(module: Any) -> range:
    """Indices of the pages that the module's bytes lie on."""
    buffer, address, size_bytes = module._v
    offset = address - buffer.base_addr
    return range(offset // PAGE_BYTES, (offset + size_bytes + PAGE_BYTES - 1) // PAGE_BYTES)


class _Places:
    """The modules' bytes in a virtual device buffer as tensors. The one that is asked for first has the lowest address of them.

    Making a tensor of an address asks the driver about it, cutting one out of a larger one does not. The large one begins at the first
    module that is asked for: the pages before that need not be mapped.
    """

    def __init__(self, buffer: Any, cuda: Cuda) -> None:
        self._buffer, self._cuda = buffer, cuda
        self._all: torch.Tensor | None = None
        self._address = 0

    def of(self, module: Any) -> torch.Tensor:
        _, address, size_bytes = module._v
        if self._all is None:
            self._address = address
            rest_bytes = self._buffer.base_addr + self._buffer.offset - address
            self._all = self._cuda.bytes_at(address, rest_bytes)
        start = address - self._address
        return self._all[start : start + size_bytes]


def _hand_over(module: Any, signature: Any, place: torch.Tensor) -> None:
    """From here on ComfyUI computes with the bytes at that place."""
    geometry = memory_management.tensors_to_geometries([module.weight, module.bias])
    module._v_weight, module._v_bias = memory_management.interpret_gathered_like(geometry, place)
    module._v_signature = signature
