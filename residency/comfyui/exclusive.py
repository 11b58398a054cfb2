"""Two tiers, one copy: where host memory is short, weights lie on the device or in host memory, not in both.

With copies in both, two experts of 23.8 GB and an encoder of 9.8 GB need 57 GB of host memory, or are read from the disk again in each
prompt. A model that leaves the device is written back instead, page by page, into the pinned slots that the model which comes in has just
left. An image is good as long as nobody has changed the weights it was taken of; what has none, ComfyUI reads from the file.

Where even one copy of each does not fit, what is needed last leaves without an image. So of models that take turns always the same bytes
are missing, those of the one that is over soonest, and the page cache can hold them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import comfy_aimdo.model_vbar as model_vbar
import comfy_aimdo.torch as aimdo_torch
import torch

from .onload import PAGE_BYTES, pages_of, weight_modules

SLAB_PAGES = 16  # slots are allocated 0.5 GiB at a time: registering memory costs 0.2 s of it
CHUNK_PAGES = 32  # exchanged between two waits for the device


class Slots:
    """Pinned host memory in slots of one page. Takes as much as `spare_bytes()` gives; what was allocated is used again."""

    def __init__(self, spare_bytes: Callable[[], int]) -> None:
        self._spare_bytes = spare_bytes
        self._slabs: list[torch.Tensor] = []
        self._free: list[torch.Tensor] = []

    @property
    def total_bytes(self) -> int:
        return sum(slab.numel() for slab in self._slabs)

    def room_bytes(self) -> int:
        """What more images could be taken of: the slots that are free, and those that there is memory for."""
        slab_bytes = SLAB_PAGES * PAGE_BYTES
        return len(self._free) * PAGE_BYTES + max(0, self._spare_bytes()) // slab_bytes * slab_bytes

    def take(self) -> torch.Tensor | None:
        """A free slot; None where there is none and no memory for more."""
        if not self._free and self._spare_bytes() >= SLAB_PAGES * PAGE_BYTES:
            try:
                slab = self._allocate(SLAB_PAGES * PAGE_BYTES)
            except RuntimeError:  # the system gives no more memory that stays in place
                return None
            self._slabs.append(slab)
            self._free += torch.split(slab, PAGE_BYTES)
        return self._free.pop() if self._free else None

    @staticmethod
    def _allocate(size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def give(self, slots: Iterable[torch.Tensor]) -> None:
        self._free += slots

    def clear(self) -> None:
        self._slabs.clear()
        self._free.clear()


@dataclass(slots=True)
class _Images:
    """Pages of one model in host memory.

    `good`: the modules whose weights were good when their pages were taken, with the signature they had: another one means that ComfyUI
    has filled them anew since. `serials`: of the pages that were brought back; comfy-aimdo counts them up at each mapping.
    """

    pages: dict[int, torch.Tensor] = field(default_factory=dict)
    good: weakref.WeakKeyDictionary[Any, Any] = field(default_factory=weakref.WeakKeyDictionary)
    serials: dict[int, int] = field(default_factory=dict)

    def keep_good_only(self, page: int, serial: int | None, modules: Iterable[Any]) -> None:
        """The page leaves as it is, or without an image: those of its modules that had other bytes on it are good no longer."""
        brought = self.serials.pop(page, None)
        for module in modules:
            signature = self.good.get(module)
            if signature is not None and (serial is None or serial not in (signature[pages_of(module).index(page)], brought)):
                del self.good[module]


class PageStore:
    """The images of all models. Executor thread only."""

    def __init__(self, spare_bytes: Callable[[], int]) -> None:
        self.slots = Slots(spare_bytes)
        self._images: weakref.WeakKeyDictionary[Any, _Images] = weakref.WeakKeyDictionary()

    def held_bytes(self, patcher: Any) -> int:
        """Bytes of the model's pages that are in host memory only."""
        images = self._images.get(patcher.model)
        return len(images.pages) * PAGE_BYTES if images else 0

    def exchange(
        self, patcher: Any, leaving: Iterable[Any], stream: torch.cuda.Stream, room_bytes: Callable[[], int]
    ) -> tuple[int, list[tuple[Any, int]]]:
        """Bring back what is in host memory of the model, and make room for the rest of it, in exchange for the last pages of those that
        leave, the one needed last first. `room_bytes()` is what weights may take on the device. Returns the bytes brought back, and
        (model, bytes) of what left."""
        victims = [[victim, 0] for victim in leaving]
        waiting = list(victims)

        def give(size_bytes: int, *, keep: bool) -> bool:
            while waiting:
                moved_bytes = self.write_back(waiting[0][0], stream, size_bytes, keep=keep)
                waiting[0][1] += moved_bytes
                if moved_bytes:
                    return True
                waiting.pop(0)
            return False

        def short_bytes() -> int:
            return int(patcher.model_size() - patcher.loaded_size() - room_bytes())

        brought_bytes, chunk_bytes = 0, CHUNK_PAGES * PAGE_BYTES
        while (lost_bytes := short_bytes() - self.held_bytes(patcher) - self.slots.room_bytes()) > 0 and give(lost_bytes, keep=False):
            pass
        while True:
            moved_bytes = self.bring_back(patcher, stream, min(room_bytes(), chunk_bytes)) if self.held_bytes(patcher) else 0
            brought_bytes += moved_bytes
            if not moved_bytes and not ((short := short_bytes()) > 0 and give(min(short, chunk_bytes), keep=True)):
                return brought_bytes, [(victim, given_bytes) for victim, given_bytes in victims if given_bytes]

    def write_back(self, patcher: Any, stream: torch.cuda.Stream, size_bytes: int, *, keep: bool = True) -> int:
        """Device -> host: the last pages of the model, then their room is given back. Returns the bytes of room gained.

        Pages for which there is no slot are given back without an image; all of them where they need not be kept.
        """
        buffer = patcher._vbar_get()
        residency = buffer.get_residency()
        leaving = [page for page in reversed(range(len(residency))) if residency[page] == 1][: -(-size_bytes // PAGE_BYTES)]
        if not leaving:
            return 0
        images = self._images_of(patcher.model)
        self._drop_stale(patcher, images)
        on_page = _by_page(patcher)
        images.good.update(_good_modules(patcher, {module for page in leaving for module in on_page.get(page, ())}))
        stream.wait_stream(torch.cuda.current_stream(patcher.load_device))
        with torch.cuda.stream(stream):
            for page in leaving:
                slot = self.slots.take() if keep else None
                images.keep_good_only(page, None if slot is None else _serial(buffer, page), on_page.get(page, ()))
                if slot is not None:
                    slot.copy_(_page(buffer, page, patcher.load_device), non_blocking=True)
                    images.pages[page] = slot
        stream.synchronize()
        return int(buffer.free_memory(len(leaving) * PAGE_BYTES))

    def bring_back(self, patcher: Any, stream: torch.cuda.Stream, room_bytes: int) -> int:
        """Host -> device: the model's first pages that are in host memory, as far as there is room. Returns the bytes brought back."""
        images = self._images.get(patcher.model)
        buffer = patcher._vbar_get()
        if images is None or buffer is None:
            return 0
        if buffer.get_watermark() < buffer.get_nr_pages():
            buffer.set_watermark(buffer.max_size)
        self._drop_stale(patcher, images)
        brought: list[int] = []
        with torch.cuda.stream(stream):
            for page in sorted(images.pages):
                if (len(brought) + 1) * PAGE_BYTES > room_bytes:
                    break
                address = buffer.base_addr + page * PAGE_BYTES
                signature = buffer.fault(address, PAGE_BYTES)
                if signature is None:
                    break
                images.serials[page] = signature[0]
                _page(buffer, page, patcher.load_device).copy_(images.pages[page], non_blocking=True)
                buffer.unpin(address, PAGE_BYTES)
                brought.append(page)
        stream.synchronize()
        self.slots.give([images.pages.pop(page) for page in brought])
        self._sign(patcher, images, set(brought))
        return len(brought) * PAGE_BYTES

    def clear(self) -> None:
        self._images.clear()
        self.slots.clear()

    def _images_of(self, model: Any) -> _Images:
        images = self._images.get(model)
        if images is None:
            images = self._images[model] = _Images()
            weakref.finalize(model, self._forget, images).atexit = False
        return images

    def _forget(self, images: _Images) -> None:
        self.slots.give(images.pages.values())
        images.pages.clear()

    def _drop_stale(self, patcher: Any, images: _Images) -> None:
        """Pages that ComfyUI has filled itself meanwhile, and modules whose weights it wants anew (a patch has changed)."""
        residency = patcher._vbar_get().get_residency()
        filled = {page for page in images.pages if residency[page] & 1}
        for module in list(images.good):
            if module._v_signature is not images.good[module] or not filled.isdisjoint(pages_of(module)):
                del images.good[module]
        self.slots.give([images.pages.pop(page) for page in filled])
        if not images.good:
            self._forget(images)
            images.serials.clear()

    def _sign(self, patcher: Any, images: _Images, brought: set[int]) -> None:
        """The modules whose bytes are all back are resident again: ComfyUI compares these signatures before it computes."""
        residency = patcher._vbar_get().get_residency()
        on_page = _by_page(patcher)
        for module in dict.fromkeys(module for page in sorted(brought) for module in on_page.get(page, ())):
            pages = pages_of(module)
            if module not in images.good or not all(residency[page] & 1 for page in pages):
                continue
            signature = model_vbar.vbar_fault(module._v)
            if signature is None:
                continue
            # a page that was neither brought back by us nor kept since the image was taken holds other bytes by now
            expected = [images.serials.get(page, module._v_signature[index]) for index, page in enumerate(pages)]
            if expected == list(signature[: len(pages)]):
                module._v_signature = images.good[module] = signature
            else:
                del images.good[module]
            model_vbar.vbar_unpin(module._v)


def _by_page(patcher: Any) -> dict[int, list[Any]]:
    """The model's modules by the pages that they lie on."""
    found: dict[int, list[Any]] = {}
    for module in weight_modules(patcher):
        for page in pages_of(module):
            found.setdefault(page, []).append(module)
    return found


def _good_modules(patcher: Any, modules: Iterable[Any]) -> dict[Any, Any]:
    """Signatures of those of the modules whose weights on the device are what ComfyUI would compute with."""
    residency = patcher._vbar_get().get_residency()
    found = {}
    for module in modules:
        if not all(residency[page] & 1 for page in pages_of(module)):
            continue
        signature = model_vbar.vbar_fault(module._v)
        if signature is not None:
            if model_vbar.vbar_signature_compare(signature, module._v_signature):
                found[module] = module._v_signature
            model_vbar.vbar_unpin(module._v)
    return found


def _serial(buffer: Any, page: int) -> int:
    """The serial of a mapped page."""
    address = buffer.base_addr + page * PAGE_BYTES
    signature = buffer.fault(address, PAGE_BYTES)
    buffer.unpin(address, PAGE_BYTES)
    return int(signature[0])


def _page(buffer: Any, page: int, device: torch.device) -> torch.Tensor:
    tensor: torch.Tensor = aimdo_torch.get_tensor_from_raw_ptr(buffer.base_addr + page * PAGE_BYTES, PAGE_BYTES, device)
    return tensor
