"""The bytes of a dynamic model's files that are in no memory of the process: not pinned, not on the device, not in images of its pages.

ComfyUI reads them again when it computes, through the page cache. Where a tensor lies in its file its storage tells (comfy/utils.py).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...core.component import Component
from ...weights.layout import Range, held_first
from .memory_usage import PINS_OF_WEIGHTS
from .onload import first_outside, pages_of
from .small_weights import SLICE

OF_A_MODULE = ("weight", "bias")

Imaged = tuple[Collection[int], Container[Any]]
"""Of a model: (pages with an image in host memory, modules whose weights are good in images and on the device)"""
NO_IMAGES: Imaged = ((), ())


class FileSlices:
    """Asked on the executor's thread. Where a model's tensors lie in files is looked for once: its files do not change under it."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, _Slices] = weakref.WeakKeyDictionary()

    def held_first(self, component: Component, patcher: Any, images: Imaged, outside_bytes: int = 0) -> tuple[Component, int] | None:
        """The component with the bytes in front that the process holds, and how many these are; the same object as long as nothing has
        changed. `outside_bytes` of the model's end count as missing wherever they lie: they will not stay there. None where nobody can
        tell which of the component's files a tensor lies in."""
        slices = self._known.get(patcher.model)
        if slices is None:
            slices = self._known[patcher.model] = _Slices(patcher.model)
        return slices.laid_out(component, slices.missing(patcher, images, outside_bytes))


@dataclass(slots=True)
class _LaidOut:
    """A component without some modules of its model. `places`: (start, end, number of the module) of all, in order, by path; `unknown`:
    modules of which nobody can tell the file; `found`: as `FileSlices.held_first`, None before the first."""

    component: Component
    places: dict[str, list[tuple[int, int, int]]]
    unknown: frozenset[int]
    missing: set[int] = field(default_factory=set)
    found: tuple[Component, int] | None = None


class _Slices:
    """Of one model's modules with tensors in files, which are known by their numbers."""

    def __init__(self, model: Any) -> None:
        found = [(module, places) for module in model.modules() if (places := _places(module))]
        self._modules = [module for module, _ in found]
        self._in_files = [places for _, places in found]
        self._on_device: list[Any] = []  # of each, as ComfyUI has placed it
        self._on_page: list[list[int]] = []
        self._laid_out: dict[str, _LaidOut] = {}

    def missing(self, patcher: Any, images: Imaged, outside_bytes: int) -> set[int]:
        """The modules that lie nowhere. A small one that ComfyUI keeps on the device has no place in the buffer, and is none of them."""
        modules = self._modules
        placed = [module.__dict__.get("_v") for module in modules]  # ComfyUI may place them anew at each load
        if placed != self._on_device:
            self._on_device, self._on_page = placed, _by_page(modules, placed)
        on_page = self._on_page
        buffer = patcher._vbar_get()
        residency = () if buffer is None else buffer.get_residency()
        outside_from = 0 if buffer is None else first_outside(buffer, outside_bytes)
        imaged_pages, good = images
        off = [page for page in range(len(on_page)) if page >= len(residency) or not residency[page] & 1]
        outside = _on(on_page[outside_from:])
        found = {number for number in outside | _on(on_page[page] for page in off) if not _is_pinned(modules[number])}
        if imaged_pages:
            nowhere = _on(on_page[page] for page in off if page not in imaged_pages)
            found -= {number for number in found - outside - nowhere if modules[number] in good}
        return found

    def laid_out(self, component: Component, missing: set[int]) -> tuple[Component, int] | None:
        """As `FileSlices.held_first`, without these modules."""
        known = self._laid_out.get(component.key)
        if known is None or known.component is not component:
            known = self._laid_out[component.key] = self._of(component)
        if known.found is not None and known.missing == missing:
            return known.found
        if known.unknown and not known.unknown.isdisjoint(missing):
            return None
        ranges: dict[str, Iterable[Range]] = {
            path: [(start, end) for start, end, number in places if number in missing] for path, places in known.places.items()
        }
        known.missing, known.found = missing, held_first(component, ranges)
        return known.found

    def _of(self, component: Component) -> _LaidOut:
        paths = {extent.path for extent in component.extents}
        only = next(iter(paths)) if len(paths) == 1 else None
        path_of: dict[Any, str | None] = {}
        places: dict[str, list[tuple[int, int, int]]] = {}
        unknown = set()
        for number, in_files in enumerate(self._in_files):
            for handle, offset, size_bytes in in_files:
                if handle not in path_of:
                    path_of[handle] = only or _same_file(handle, paths)
                path = path_of[handle]
                if path is None:
                    unknown.add(number)
                else:
                    places.setdefault(path, []).append((offset, offset + size_bytes, number))
        return _LaidOut(component, {path: sorted(found) for path, found in places.items()}, frozenset(unknown))


def _by_page(modules: Iterable[Any], placed: Iterable[Any]) -> list[list[int]]:
    """Numbers of the modules on each page."""
    found: list[list[int]] = []
    for number, (module, place) in enumerate(zip(modules, placed, strict=True)):
        for page in () if place is None else pages_of(module):
            found += [[] for _ in range(page + 1 - len(found))]
            found[page].append(number)
    return found


def _on(pages: Iterable[list[int]]) -> set[int]:
    return set().union(*pages)


def _places(module: Any) -> tuple[tuple[Any, int, int], ...]:
    """(file handle, offset, bytes) of each of the module's tensors that lies in a file."""
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
    if pins is not None:
        for name, pin in pins.items():
            if pin.get("pin") is not None and name.startswith(PINS_OF_WEIGHTS):
                return True
    return False


def _same_file(handle: Any, paths: Collection[str]) -> str | None:
    """The path of those that leads to the open file; None where the system's handles do not tell (Windows)."""
    if os.name != "posix":
        return None
    try:
        own = os.fstat(handle if isinstance(handle, int) else handle.fileno())
        return next((path for path in paths if os.path.samestat(own, os.stat(path))), None)
    except (OSError, AttributeError):
        return None
