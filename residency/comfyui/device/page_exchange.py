"""Two tiers, one copy: where host memory is short, weights lie on the device or in host memory, not in both.

With copies in both, two experts of 23.8 GB and an encoder of 9.8 GB need 57 GB of host memory, or are read from the disk again in each
prompt. A model that leaves the device is written back instead, page by page, into the pinned slots that the model which comes in has just
left. An image is good as long as nobody has changed the weights it was taken of; what has none, ComfyUI reads from the file.

Where even one copy of each does not fit, what is needed last leaves without an image (Belady 1966). A model that is passed through once,
a text encoder, gets no room for what it has lost: it is read while it computes, and nothing else loses its place for it. So in prompts that
repeat it is always the end of the encoder that is missing, and the page cache can hold that. Without this the ends of the models were
missing in turn, 6 to 9 GB from the drive in each prompt (H100, 24 GB on the device and 42 GB of RAM for 57.5 GB of weights).
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import comfy_aimdo.model_vbar as model_vbar
import torch

from .cuda import Cuda
from .memory_usage import pinnable_bytes, pinned_bytes
from .onload import PAGE_BYTES, first_outside, pages_of, weight_modules
from .proofs import Behaviour, DisprovedError

log = logging.getLogger("residency")

SLAB_PAGES = 16  # slots are allocated 0.5 GiB at a time: registering memory costs 0.2 s of it
CHUNK_PAGES = 8  # cross in each direction between two waits for the device: 5 ms of the link
# Of the device's headroom, lent while nothing computes. Both tiers are full: what comes needs the room of pages that have left, what leaves
# the slots of pages that have come. Two chunks of room, and both directions are busy at once.
TRANSIT_PAGES = 2 * CHUNK_PAGES
COMPARED_PAGES = 2  # in each direction, of an exchange that is looked at

Compare = Callable[[torch.Tensor, torch.Tensor, bool], None]
"""(page on the device, its image in host memory, whether it has been brought back)"""


class Slots:
    """Pinned host memory in slots of one page. Takes as much as `spare_bytes()` gives, and no more than the system lets be pinned; what was
    allocated is used again."""

    def __init__(self, spare_bytes: Callable[[], int], cuda: Cuda) -> None:
        self._spare_bytes = spare_bytes
        self._cuda = cuda
        self._slabs: list[torch.Tensor] = []
        self._free: list[torch.Tensor] = []
        self.spared_bytes = 0  # host memory that new slots leave to what ComfyUI will pin for the model that is coming

    @property
    def total_bytes(self) -> int:
        return sum(slab.numel() for slab in self._slabs)

    def _more_bytes(self) -> int:
        spare_bytes, most_bytes = self._spare_bytes() - self.spared_bytes, pinnable_bytes()
        return spare_bytes if most_bytes is None else min(spare_bytes, most_bytes - self.total_bytes)

    def room_pages(self) -> int:
        """Pages that more images could be taken of: the slots that are free, and those that there is memory for."""
        return len(self._free) + max(0, self._more_bytes()) // (SLAB_PAGES * PAGE_BYTES) * SLAB_PAGES

    def take(self) -> torch.Tensor | None:
        """A free slot; None where there is none and no memory for more."""
        if not self._free and self._more_bytes() >= SLAB_PAGES * PAGE_BYTES:
            try:
                slab = self._cuda.pinned(SLAB_PAGES * PAGE_BYTES)
            except RuntimeError:  # the system gives no more memory that stays in place
                return None
            self._slabs.append(slab)
            self._free += torch.split(slab, PAGE_BYTES)
        return self._free.pop() if self._free else None

    def give(self, slots: Iterable[torch.Tensor]) -> None:
        self._free += slots

    def clear(self) -> None:
        self._free.clear()
        for slab in self._slabs:
            self._cuda.unpin(slab)
        self._slabs.clear()


@dataclass(slots=True)
class _Images:
    """Pages of one model in host memory.

    `good`: the modules whose weights were good when their pages were taken, with the signature they had: another one means that ComfyUI
    has filled them anew since. `serials`: of the pages that were brought back; comfy-aimdo counts them up at each mapping. `left_out`:
    what has no image gets no room on the device either. `brought`: the model has had its turn.
    """

    pages: dict[int, torch.Tensor] = field(default_factory=dict)
    good: weakref.WeakKeyDictionary[Any, Any] = field(default_factory=weakref.WeakKeyDictionary)
    serials: dict[int, int] = field(default_factory=dict)
    left_out: bool = False
    brought: bool = False

    def keep_good_only(self, page: int, serial: int | None, modules: Iterable[Any]) -> None:
        """The page leaves as it is, or without an image: those of its modules that had other bytes on it are good no longer."""
        brought = self.serials.pop(page, None)
        for module in modules:
            signature = self.good.get(module)
            if signature is not None and (serial is None or serial not in (signature[pages_of(module).index(page)], brought)):
                del self.good[module]


class PageStore:
    """The images of all models. Executor thread only."""

    def __init__(self, spare_bytes: Callable[[], int], cuda: Cuda) -> None:
        self.slots = Slots(spare_bytes, cuda)
        self._cuda = cuda
        self._images: weakref.WeakKeyDictionary[Any, _Images] = weakref.WeakKeyDictionary()
        self.failures = 0  # of a device that answered no more
        self.compared = [0, 0]  # pages that left and came back in the last exchange and were looked at

    def held_bytes(self, patcher: Any) -> int:
        """Bytes of the model's pages that are in host memory only."""
        images = self._images.get(patcher.model)
        return len(images.pages) * PAGE_BYTES if images else 0

    def is_imaged(self, patcher: Any, module: Any, residency: Sequence[int]) -> bool:
        """Whether the module's weights are good, and what of them is not on the device lies in host memory."""
        images = self._images.get(patcher.model)
        if images is None or module not in images.good:
            return False
        return all(page in images.pages or (page < len(residency) and residency[page] & 1) for page in pages_of(module))

    def exchange(
        self,
        patcher: Any,
        leaving: Iterable[Any],
        streams: Streams,
        room_bytes: Callable[[], int],
        *,
        passed_once: bool = False,
        outside: Mapping[Any, int] | None = None,
        compares: bool = False,
    ) -> tuple[int, list[tuple[Any, int]]]:
        """Bring back what is in host memory of the model, and make room for the rest of it, in exchange for the last pages of those that
        leave, the one needed last first. `room_bytes()` is what weights may take on the device. For what a model that is `passed_once` has
        lost no other loses its image: see `leave_out`. `outside`: bytes at the end of models that leave without an image. `compares`: the
        first pages, with what they should hold. Returns the bytes brought back, and (model, bytes) of what left.

        Raises what the device raises, and DisprovedError for a page that reads otherwise; then none of these models has an image any more,
        and ComfyUI reads what it misses."""
        side = self._side(patcher)
        side.images.left_out = False
        self.compared = [0, 0]
        compare = self._compare if compares else None
        ends = outside or {}
        coming, victims = _Coming(side, compare), [_Leaving(self._side(victim), compare, ends.get(victim, 0)) for victim in leaving]
        try:
            return self._exchange(side, coming, victims, streams, room_bytes, passed_once)
        except BaseException:
            self._give_up([side.images, *(victim.images for victim in victims)], streams)
            raise

    def _exchange(
        self,
        side: _Side,
        coming: _Coming,
        victims: Sequence[_Leaving],
        streams: Streams,
        room_bytes: Callable[[], int],
        passed_once: bool,
    ) -> tuple[int, list[tuple[Any, int]]]:
        patcher = side.patcher
        streams.out.wait_stream(self._cuda.computing())
        # what finds no room on the device crosses at each step: without a pin it would be read from the file each time
        most_bytes = room_bytes() + PAGE_BYTES * sum(victim.device_pages() for victim in victims)
        streamed_bytes, _ = pinned_bytes(patcher)
        self.slots.spared_bytes = max(0, int(patcher.model_size() - patcher.loaded_size() - most_bytes) - streamed_bytes)

        def short_pages() -> int:
            left_out = side.images.left_out
            wanted_bytes = coming.waiting_pages * PAGE_BYTES if left_out else patcher.model_size() - patcher.loaded_size()
            return -(-int(wanted_bytes - room_bytes()) // PAGE_BYTES)

        def lost_pages() -> int:
            return short_pages() - len(coming.images.pages) - self.slots.room_pages()

        def announce(pages: int, *, keep: bool) -> _Leaving | None:
            return next((victim for victim in victims if victim.announce(pages, self.slots if keep else None, streams.out)), None)

        side.images.left_out = passed_once and side.lost_pages() > 0 and lost_pages() > 0
        while (pages := lost_pages()) > 0:
            gone = announce(pages, keep=False)
            if gone is None:
                break
            gone.leave()
        while True:
            lent_pages = min(TRANSIT_PAGES, sum(victim.device_pages() for victim in victims))
            coming.announce(min(CHUNK_PAGES, room_bytes() // PAGE_BYTES + lent_pages), streams.into)
            pages = min(CHUNK_PAGES, short_pages())
            if coming.announced:  # which will have given its slots by the next time
                pages = min(pages, self.slots.room_pages())
            gone = announce(pages, keep=True)
            if not coming.announced and gone is None:
                side.images.brought = True
                return coming.brought_pages * PAGE_BYTES, [(victim.patcher, victim.left_bytes) for victim in victims if victim.left_bytes]
            streams.into.synchronize()
            self.slots.give(coming.arrive())
            if gone is not None:
                streams.out.synchronize()
                gone.leave()

    def _give_up(self, all_images: Iterable[_Images], streams: Streams) -> None:
        """Which of these images hold what they should is not known: copies may be half done, and may still be under way."""
        try:
            streams.into.synchronize()
            streams.out.synchronize()
            settled = True
        except Exception:
            log.exception("residency: the device answers no more; the pinned pages of this exchange are never used again")
            self.failures += 1
            settled = False
        for images in all_images:
            if settled:
                self.slots.give(images.pages.values())
            images.pages.clear()
            images.good.clear()
            images.serials.clear()

    def _compare(self, page: torch.Tensor, image: torch.Tensor, back: bool) -> None:
        """Both hold the same bytes by now."""
        if self.compared[back] < COMPARED_PAGES:
            self.compared[back] += 1
            if not torch.equal(page.cpu(), image):
                way = "brought back" if back else "written back"
                raise DisprovedError(Behaviour.WRITTEN_BACK_EQUAL, f"a page that was {way} read otherwise")

    def leave_out(self, patcher: Any) -> None:
        """ComfyUI has loaded the model. What the exchange has made no room for gets no page until it is loaded again: it is read at each
        use. Does nothing to a model for which there is room."""
        side = self._side(patcher)
        if side.images.left_out:
            last_page = max((page for page, state in enumerate(side.buffer.get_residency()) if state & 1), default=-1)
            side.buffer.set_watermark((last_page + 1) * PAGE_BYTES)

    def clear(self) -> None:
        self._images.clear()
        self.slots.clear()

    def _side(self, patcher: Any) -> _Side:
        images = self._images_of(patcher.model)
        if patcher._vbar_get() is not None:
            self._drop_stale(patcher, images)
        return _Side(patcher, images, self._cuda)

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


@dataclass(frozen=True, slots=True)
class Streams:
    """Of copies: `into` the device and `out` of it."""

    into: torch.cuda.Stream
    out: torch.cuda.Stream


class _Side:
    """A model in one exchange. Which modules lie on which page is asked once: ComfyUI does nothing meanwhile."""

    def __init__(self, patcher: Any, images: _Images, cuda: Cuda) -> None:
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


class _Leaving:
    """Device -> host: the last pages of a model, then their room is given back."""

    def __init__(self, side: _Side, compare: Compare | None = None, outside_bytes: int = 0) -> None:
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
        images.good.update(_good_modules(residency, side.modules_on(pages)))
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


class _Coming:
    """Host -> device: the pages of a model that are in host memory, the first ones first."""

    def __init__(self, side: _Side, compare: Compare | None = None) -> None:
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

    def announce(self, count: int, stream: torch.cuda.Stream) -> None:
        """Begin with the copies of the next pages, as far as there is room on the device."""
        side = self._side
        with side.cuda.on(stream):
            while self._waiting and len(self.announced) < count and (serial := side.serial(self._waiting[0])) is not None:
                page = self._waiting.popleft()
                self.images.serials[page] = serial
                side.cuda.copy(side.bytes_of(page), self.images.pages[page])
                self.announced.append(page)

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


def _good_modules(residency: Sequence[int], modules: Iterable[Any]) -> dict[Any, Any]:
    """Signatures of those of the modules whose weights on the device are what ComfyUI would compute with."""
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
