"""The bytes of a dynamic model's files that are in no memory of the process: not pinned, not on the device, not in images of its pages.

ComfyUI reads them again when it computes, through the page cache. Where a tensor lies in its file its storage tells (comfy/utils.py).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.component import Extent
from .memory_usage import PINS_OF_WEIGHTS
from .onload import first_outside, pages_of

SLICE = "_comfy_tensor_file_slice"  # of a storage: file handle, lock, offset and size in bytes
OF_A_MODULE = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class _Slices:
    """Of one module: (file handle, offset, bytes) of each of its tensors that lies in a file."""

    module: Any
    places: tuple[tuple[Any, int, int], ...]


class FileSlices:
    """Asked on the executor's thread. Where a model's tensors lie is looked for once: its files do not change under it."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, list[_Slices]] = weakref.WeakKeyDictionary()
        self._paths: weakref.WeakKeyDictionary[Any, dict[Any, str | None]] = weakref.WeakKeyDictionary()

    def missing(
        self, patcher: Any, paths: Collection[str], is_imaged: Callable[[Any, Sequence[int]], bool], outside_bytes: int = 0
    ) -> list[Extent] | None:
        """Ranges of `paths`, the model's files. `is_imaged(module, residency)`: whether the module's weights off the device lie in images
        of its pages. `outside_bytes` of its end count as missing wherever they lie: they will not stay there. None where nobody can tell
        which of the files a tensor lies in."""
        buffer = patcher._vbar_get()
        residency = () if buffer is None else buffer.get_residency()
        outside_from = 0 if buffer is None else first_outside(buffer, outside_bytes)
        found: list[Extent] = []
        for one in self._slices(patcher.model):
            module = one.module
            if "_v" not in module.__dict__ or _is_pinned(module):
                continue  # a small one, which ComfyUI keeps on the device, or one with a copy
            pages = pages_of(module)
            is_here = all(page < len(residency) and residency[page] & 1 for page in pages) or is_imaged(module, residency)
            if is_here and pages[-1] < outside_from:
                continue
            for handle, offset, size_bytes in one.places:
                path = self._path(patcher.model, handle, paths)
                if path is None:
                    return None
                found.append(Extent(path, offset, size_bytes))
        return found

    def _slices(self, model: Any) -> list[_Slices]:
        known = self._known.get(model)
        if known is None:
            found = (_Slices(module, _places(module)) for module in model.modules())
            known = self._known[model] = [one for one in found if one.places]
        return known

    def _path(self, model: Any, handle: Any, paths: Collection[str]) -> str | None:
        if len(paths) == 1:
            return next(iter(paths))
        known = self._paths.setdefault(model, {})
        if handle not in known:
            known[handle] = _same_file(handle, paths)
        return known[handle]


def _places(module: Any) -> tuple[tuple[Any, int, int], ...]:
    found = []
    for name in OF_A_MODULE:
        tensor = module._parameters.get(name)
        tensor = getattr(tensor, "_qdata", tensor)  # of a quantized one; its scales are small and stay in the process
        place = None if tensor is None or tensor.is_meta else getattr(tensor.untyped_storage(), SLICE, None)
        if place is not None:
            found.append((place.file_ref, int(place.offset), int(place.size)))
    return tuple(found)


def _is_pinned(module: Any) -> bool:
    pins = module.__dict__.get("_pins")
    return pins is not None and any(name.startswith(PINS_OF_WEIGHTS) and pin.get("pin") is not None for name, pin in pins.items())


def _same_file(handle: Any, paths: Collection[str]) -> str | None:
    """The path of those that leads to the open file; None where the system's handles do not tell (Windows)."""
    if os.name != "posix":
        return None
    try:
        own = os.fstat(handle if isinstance(handle, int) else handle.fileno())
        return next((path for path in paths if os.path.samestat(own, os.stat(path))), None)
    except (OSError, AttributeError):
        return None
