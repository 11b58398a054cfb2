"""The two sides of an exchange of pages: the model that comes, and those that leave for it.

Signatures tell which weights ComfyUI would compute with: comfy-aimdo counts a page's serial up at each mapping, and a module is resident
when the signature of its pages is the one that it was filled at.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import comfy_aimdo.model_vbar as model_vbar
import torch

from .copy_streams import Streams
from .cuda import Cuda
from .onload import PAGE_BYTES, first_outside, pages_of, weight_modules
from .slots import Slots

Compare = Callable[[torch.Tensor, torch.Tensor, bool], None]
"""(page on the device, its image in host memory, whether it has been brought back)"""


@dataclass(slots=True)
class Images:
    """Pages of one model in host memory.

    `good`: the modules whose weights were good when their pages were taken, with the signature they had: another one means that ComfyUI has
    filled them anew since. `serials`: of the pages that were brought back; comfy-aimdo counts them up at each mapping. `left_out`: pages
    without an image get no room on the device either. `brought`: the model has had its turn. `lost_pages`: its last ones that were neither
    on the device nor here when its last turn began.
    """

    pages: dict[int, torch.Tensor] = field(default_factory=dict)
    good: weakref.WeakKeyDictionary[Any, Any] = field(default_factory=weakref.WeakKeyDictionary)
    serials: dict[int, int] = field(default_factory=dict)
    left_out: bool = False
    brought: bool = False
    lost_pages: int = 0

    def keep_good_only(self, page: int, serial: int | None, modules: Iterable[Any]) -> None:
        """The page leaves as it is, or without an image: those of its modules that had other bytes on it are good no longer."""
        brought = self.serials.pop(page, None)
        for module in modules:
            signature = self.good.get(module)
            if signature is not None and (serial is None or serial not in (signature[pages_of(module).index(page)], brought)):
                del self.good[module]


class Side:
    """A model in one exchange. Which modules lie on which page is asked once: ComfyUI does nothing meanwhile."""

    def __init__(self, patcher: Any, images: Images, cuda: Cuda) -> None:
        self.patcher, self.images, self.cuda = patcher, images, cuda
        self.buffer = patcher._vbar_get()

    def lost_pages(self) -> int:
        """Pages without an image that are not on the device. 0 for a model that has not been loaded yet."""
        if self.buffer is None:
            return 0
        residency = self.buffer.get_residency()
        there: int = sum(state & 1 for state in residency)
        if not (there or self.images.pages or self.images.brought):
            return 0
        pages: int = -(-self.buffer.offset // PAGE_BYTES)
        return pages - there - len(self.images.pages)

    @cached_property
    def on_page(self) -> dict[int, list[Any]]:
        """The model's modules by the pages that they lie on."""
        found: dict[int, list[Any]] = {}
        for module in weight_modules(self.patcher):
            for page in pages_of(module):
                found.setdefault(page, []).append(module)
        return found

    def modules_on(self, pages: Iterable[int]) -> dict[Any, None]:
        """In the order of the pages, each once."""
        return dict.fromkeys(module for page in pages for module in self.on_page.get(page, ()))

    def bytes_of(self, page: int) -> torch.Tensor:
        """A page that is mapped."""
        return self.cuda.bytes_at(self.buffer.base_addr + page * PAGE_BYTES, PAGE_BYTES)

    def serial(self, page: int) -> int | None:
        """Maps the page where it is not; its serial, or None where there is no room for it."""
        address = self.buffer.base_addr + page * PAGE_BYTES
        signature = self.buffer.fault(address, PAGE_BYTES)
        if signature is None:
            return None
        self.buffer.unpin(address, PAGE_BYTES)
        return int(signature[0])


class Leaving:
    """Device -> host: the last pages of a model, then their room is given back."""

    def __init__(self, side: Side, compare: Compare | None = None, outside_bytes: int = 0) -> None:
        self.patcher, self.images, self._side, self._compare = side.patcher, side.images, side, compare
        self.left_bytes = self._announced_pages = 0
        self._copied: list[int] = []
        self._stays = side.buffer is None
        self._outside_from = 0 if side.buffer is None else first_outside(side.buffer, outside_bytes)

    def device_pages(self) -> int:
        """Pages that may still leave."""
        return 0 if self._stays else int(self._side.buffer.loaded_size()) // PAGE_BYTES

    def announce(self, count: int, slots: Slots | None, stream: torch.cuda.Stream) -> int:
        """Begin with the copies of its last pages. Those for which there is no slot, and those outside, leave without an image. Returns how
        many leave."""
        side, images = self._side, self.images
        if count <= 0 or self._stays:
            return 0
        residency = side.buffer.get_residency()
        pages = [page for page in reversed(range(len(residency))) if residency[page] == 1][:count]
        images.good.update(good_modules(residency, side.modules_on(pages)))
        self._copied = []
        with side.cuda.on(stream):
            for page in pages:
                slot = None if slots is None or page >= self._outside_from else slots.take()
                if slot is not None:
                    images.pages[page] = slot
                images.keep_good_only(page, None if slot is None else side.serial(page), side.on_page.get(page, ()))
                if slot is not None:
                    side.cuda.copy(slot, side.bytes_of(page))
                    self._copied.append(page)
        self._announced_pages = len(pages)
        return len(pages)

    def leave(self) -> None:
        """Their copies are over."""
        if self._compare is not None:
            for page in self._copied:
                self._compare(self._side.bytes_of(page), self.images.pages[page], False)
        left_bytes = int(self._side.buffer.free_memory(self._announced_pages * PAGE_BYTES))
        self.left_bytes += left_bytes
        self._stays = not left_bytes


class Coming:
    """Host -> device: the pages of a model that are in host memory, the first ones first."""

    def __init__(self, side: Side, compare: Compare | None = None) -> None:
        self.images, self._side, self._compare = side.images, side, compare
        self.brought_pages = 0
        self.announced: list[int] = []
        self._waiting = deque(sorted(side.images.pages) if side.buffer is not None else ())
        if self._waiting and side.buffer.get_watermark() < side.buffer.get_nr_pages():
            side.buffer.set_watermark(side.buffer.max_size)

    @property
    def waiting_pages(self) -> int:
        """Pages with an image that have no room on the device yet."""
        return len(self._waiting)

    def announce(self, count: int, streams: Streams) -> tuple[torch.cuda.Event, torch.cuda.Event, int]:
        """Begin with the copies of the next pages, as far as there is room on the device. Returns the marks on the stream before and behind
        them, and their bytes: all pages are mapped before, so that the stream does nothing else between the two."""
        side = self._side
        while self._waiting and len(self.announced) < count and (serial := side.serial(self._waiting[0])) is not None:
            page = self._waiting.popleft()
            self.images.serials[page] = serial
            self.announced.append(page)
        begun = streams.link.mark(streams.into)
        with side.cuda.on(streams.into):
            for page in self.announced:
                side.cuda.copy(side.bytes_of(page), self.images.pages[page])
        return begun, streams.link.mark(streams.into), len(self.announced) * PAGE_BYTES

    def announce_at(self, pages: Iterable[int], stream: torch.cuda.Stream) -> list[torch.Tensor]:
        """ComfyUI is about to compute with the weights on these pages. Begin the copies of those that wait in host memory; of those that
        find no room on the device the images are given up, for ComfyUI does not know of them: it reads the weights, and keeps pins. Returns
        the slots that are free then."""
        side, free = self._side, []
        with side.cuda.on(stream):
            for page in pages:
                if page not in self.images.pages or page in self.announced:
                    continue
                self._waiting.remove(page)
                serial = side.serial(page)
                if serial is None:
                    free.append(self.images.pages.pop(page))
                    for module in side.on_page.get(page, ()):
                        self.images.good.pop(module, None)
                    continue
                self.images.serials[page] = serial
                side.cuda.copy(side.bytes_of(page), self.images.pages[page])
                self.announced.append(page)
        return free

    def arrive(self) -> list[torch.Tensor]:
        """Their copies are over: the slots that they leave. The modules whose bytes are all back are resident again: ComfyUI compares these
        signatures before it computes."""
        pages, self.announced = self.announced, []
        if self._compare is not None:
            for page in pages:
                self._compare(self._side.bytes_of(page), self.images.pages[page], True)
        self.brought_pages += len(pages)
        images, residency = self.images, self._side.buffer.get_residency() if pages else []
        for module in self._side.modules_on(pages):
            own = pages_of(module)
            if module not in images.good or not all(residency[page] & 1 for page in own):
                continue
            signature = model_vbar.vbar_fault(module._v)
            if signature is None:
                continue
            # a page that was neither brought back by us nor kept since the image was taken holds other bytes by now
            expected = [images.serials.get(page, module._v_signature[index]) for index, page in enumerate(own)]
            if expected == list(signature[: len(own)]):
                module._v_signature = images.good[module] = signature
            else:
                del images.good[module]
            model_vbar.vbar_unpin(module._v)
        return [images.pages.pop(page) for page in pages]


def good_modules(residency: Sequence[int], modules: Iterable[Any]) -> dict[Any, Any]:
    """Signatures of those of the modules with whose weights on the device ComfyUI would compute."""
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
