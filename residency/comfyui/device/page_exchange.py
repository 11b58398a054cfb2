"""Two tiers, one copy: where host memory is short, weights lie on the device or in host memory, not in both.

With copies in both, two experts of 23.8 GB and an encoder of 9.8 GB need 57 GB of host memory, or are read from the disk again in each
prompt. A model that leaves the device is written back instead, page by page, into the pinned slots that the model which comes in has just
left. An image is good as long as nobody has changed the weights it was taken of; a page without one ComfyUI reads from the file.

Where even one copy of each does not fit, pages needed last leave without an image (Belady 1966). A model that is passed through once, a
text encoder, gets no room for the pages that it has lost: it is read while it computes, and nothing else loses its place for it. So in
prompts that repeat it is always the end of the encoder that is missing, and the page cache can hold that. Without this the ends of the
models were missing in turn, 6 to 9 GB from the drive in each prompt (H100, 24 GB on the device and 42 GB of RAM for 57.5 GB of weights).
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .copy_streams import Streams
from .cuda import Cuda
from .exchange_sides import Coming, Images, Leaving, Side
from .file_slices import NO_IMAGES
from .memory_usage import pinned_bytes
from .onload import PAGE_BYTES, pages_of
from .proofs import Behaviour, DisprovedError
from .slots import SLAB_PAGES, Slots

log = logging.getLogger("residency")

CHUNK_PAGES = 8  # cross in each direction between two waits for the device: 5 ms of the link
# Of the device's headroom, lent while nothing computes. Both tiers are full: what comes needs the room of pages that have left, what leaves
# the slots of pages that have come. Two chunks of room, and both directions are busy at once.
TRANSIT_PAGES = 2 * CHUNK_PAGES
# Torch takes room as well while the model asks for its pages. With looks only where the room seen last had been asked for, comfy-aimdo took
# 1.3 GB of others' pages in 0.2 s of a first pass, without images, and 2.6 GB in an encoder's, while 4 to 5 GB of slots were free (LTX-2.3,
# 12 GiB of an H100, 32 GB of RAM).
LOOK_S = 0.005
COMPARED_PAGES = 2  # in each direction, of an exchange that is looked at


class PageStore:
    """The images of all models. Executor thread only."""

    def __init__(self, spare_bytes: Callable[[], int], cuda: Cuda, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots = Slots(spare_bytes, cuda)
        self.cuda, self.clock = cuda, clock
        self._images: weakref.WeakKeyDictionary[Any, Images] = weakref.WeakKeyDictionary()
        self.failures = 0  # of a device that answered no more
        self.compared = [0, 0]  # pages that left and came back in the last exchange and were looked at

    def held_bytes(self, patcher: Any) -> int:
        """Bytes of the model's pages that are in host memory only."""
        images = self._images.get(patcher.model)
        return len(images.pages) * PAGE_BYTES if images else 0

    def lost_bytes(self, patcher: Any) -> int:
        """Bytes at the model's end that had left both tiers by its last turn: they will have again by the next one."""
        images = self._images.get(patcher.model)
        return images.lost_pages * PAGE_BYTES if images else 0

    def images_of(self, patcher: Any) -> tuple[Collection[int], Container[Any]]:
        """The model's pages with an image in host memory, and its modules whose weights are good in images and on the device."""
        images = self._images.get(patcher.model)
        return (images.pages, images.good) if images else NO_IMAGES

    def exchange(
        self,
        patcher: Any,
        leaving: Mapping[Any, int],
        streams: Streams,
        room_bytes: Callable[[], int],
        *,
        passed_once: bool = False,
        computes_bytes: int = 0,
        compares: bool = False,
    ) -> Turn:
        """It is the model's turn. `leaving`: those that may leave for it, the one needed last first, and bytes at the end of each that
        leave without an image. `room_bytes()`: device memory that weights may take. No other loses its image for pages that a model which
        is `passed_once` has lost: see `leave_out`. `computes_bytes`: room beside that which the node is known to compute with; for it pages
        leave as far as there are free slots: memory for more is the page cache's, of bytes that are used sooner. `compares`: the first
        pages, with their sources.

        Raises the device's errors, and DisprovedError for a page that reads otherwise; then none of these models has an image any more,
        and ComfyUI reads the missing pages. So does the turn when it goes on."""
        side = self._side(patcher)
        side.images.left_out, side.images.lost_pages = False, side.lost_pages()
        self.compared = [0, 0]
        compare = self._compare if compares else None
        victims = [Leaving(self._side(victim), compare, outside_bytes) for victim, outside_bytes in leaving.items()]
        turn = Turn(self, side, Coming(side, compare), victims, streams, room_bytes)
        turn.begin(passed_once, computes_bytes)
        return turn

    def give_up(self, all_images: Iterable[Images], streams: Streams) -> None:
        """Forget these images: copies may be half done or still under way, and nobody knows which hold the right bytes."""
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
        """ComfyUI has loaded the model. Weights without room in the exchange get no page until it is loaded again: they are read at each
        use. Does nothing to a model for which there is room."""
        side = self._side(patcher)
        if side.images.left_out:
            last_page = max((page for page, state in enumerate(side.buffer.get_residency()) if state & 1), default=-1)
            side.buffer.set_watermark((last_page + 1) * PAGE_BYTES)

    def clear(self) -> None:
        self._images.clear()
        self.slots.clear()

    def _side(self, patcher: Any) -> Side:
        images = self._images_of(patcher.model)
        if patcher._vbar_get() is not None:
            self._drop_stale(patcher, images)
        return Side(patcher, images, self.cuda)

    def _images_of(self, model: Any) -> Images:
        images = self._images.get(model)
        if images is None:
            images = self._images[model] = Images()
            weakref.finalize(model, self._forget, images).atexit = False
        return images

    def _forget(self, images: Images) -> None:
        self.slots.give(images.pages.values())
        images.pages.clear()

    def _drop_stale(self, patcher: Any, images: Images) -> None:
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


class Turn:
    """One model's exchange, for as long as its node runs. Pages with an image come back when it begins. For the rest, which ComfyUI fetches
    as it computes, the others leave piece by piece: until then the page cache, where that rest waits, keeps its room in host memory. With
    all leaving at once, bytes read ahead of the model were pushed out and read again."""

    def __init__(
        self, store: PageStore, side: Side, coming: Coming, victims: Sequence[Leaving], streams: Streams, room_bytes: Callable[[], int]
    ) -> None:
        self.brought_bytes = 0
        self._store, self._side, self._coming, self._victims = store, side, coming, victims
        self._streams, self._room_bytes = streams, room_bytes
        self._looks_in_bytes, self._looks_at_s = 0, 0.0  # that the model may ask for, and until when, before another look at the room
        self._asked_bytes = self._seen_bytes = 0  # that it has asked for, by now and at the last look at host memory
        self._told = dict.fromkeys(victims, 0)

    @property
    def patcher(self) -> Any:
        """Of the model that comes."""
        return self._side.patcher

    @property
    def buffer(self) -> Any:
        """Of the model that comes; None before its first load."""
        return self.patcher._vbar_get()

    def takes(self, patcher: Any) -> bool:
        """Whether it is this model's turn, or it may leave for it."""
        return any(other.model is patcher.model for other in (self.patcher, *(victim.patcher for victim in self._victims)))

    def begin(self, passed_once: bool, computes_bytes: int) -> None:
        """Bring back the model's pages in host memory, in exchange for the last pages of the others."""
        with self._giving_up():
            self._begin(passed_once)
            self._make_room(computes_bytes, free_slots_only=True)

    def _begin(self, passed_once: bool) -> None:
        side, coming, slots, streams = self._side, self._coming, self._store.slots, self._streams
        streams.into.synchronize()  # what is still on its way to a page must not arrive when that has left
        streams.out.wait_stream(self._store.cuda.computing())
        # what finds no room on the device crosses at each step: without a pin it would be read from the file each time
        most_bytes = self._room_bytes() + PAGE_BYTES * self._victims_pages()
        streamed_bytes, _ = pinned_bytes(side.patcher)
        slots.spared_bytes = max(0, self._missing_bytes() - most_bytes - streamed_bytes)
        side.images.left_out = passed_once and side.lost_pages() > 0 and self._lost_pages() > 0
        while (pages := self._lost_pages()) > 0:
            gone = self._announce(pages, keep=False)
            if gone is None:
                break
            gone.leave()
        while True:
            lent_pages = min(TRANSIT_PAGES, self._victims_pages())
            crossing = coming.announce(min(CHUNK_PAGES, self._room_bytes() // PAGE_BYTES + lent_pages), streams)
            pages = min(CHUNK_PAGES, self._short_pages(coming.waiting_pages * PAGE_BYTES))
            if coming.announced:  # which will have given its slots by the next time
                pages = min(pages, slots.room_pages())
            gone = self._announce(pages, keep=True)
            if not coming.announced and gone is None:
                side.images.brought = True
                self.brought_bytes = coming.brought_pages * PAGE_BYTES
                return
            streams.into.synchronize()
            streams.link.between(*crossing)
            slots.give(coming.arrive())
            if gone is not None:
                streams.out.synchronize()
                gone.leave()

    def is_over(self, size_bytes: int) -> bool:
        """The model asks for so many bytes: whether it has gone through all of its weights before, twice over, for it may ask for blocks
        and for the modules in them. By then it has all that it gets, and each look at the device would cost a module more than its own
        launch."""
        self._asked_bytes += size_bytes
        return self._asked_bytes > 2 * int(self.patcher.model_size())

    def is_seen_again(self) -> bool:
        """Whether host memory should be looked at, once in a slab of the first pass."""
        if self._asked_bytes > self.patcher.model_size() or self._asked_bytes < self._seen_bytes + SLAB_PAGES * PAGE_BYTES:
            return False
        self._seen_bytes = self._asked_bytes
        return True

    def is_short(self, address: int, size_bytes: int) -> bool:
        """Whether others should leave before the model asks for the pages there. For a model with parts that get no room they leave only
        for what computes beside it, and only into free slots."""
        self._looks_in_bytes -= size_bytes
        left_out, now_s = self._side.images.left_out, self._store.clock()
        if now_s < self._looks_at_s and (left_out or self._looks_in_bytes > 0):
            return False
        self._looks_at_s = now_s + LOOK_S
        if not self._victims_pages() or (left_out and not self._store.slots.free_pages):
            return False
        wanted_pages = 0 if left_out else self._wanted_pages(address, size_bytes, SLAB_PAGES // 2)
        spare_pages = self._room_bytes() // PAGE_BYTES - wanted_pages
        self._looks_in_bytes = max(0, spare_pages) * PAGE_BYTES
        return spare_pages < 0

    def go_on(self, address: int, size_bytes: int) -> None:
        """Let as much leave as the next slab of slots takes, or as those pages need."""
        with self._giving_up():
            self._streams.into.synchronize()
            left_out = self._side.images.left_out
            wanted_pages = 0 if left_out else self._wanted_pages(address, size_bytes, SLAB_PAGES)
            self._make_room(wanted_pages * PAGE_BYTES, free_slots_only=left_out)

    def _make_room(self, wanted_bytes: int, *, free_slots_only: bool) -> None:
        """Others leave, with images as far as there are slots, until so many bytes find room; or only as far as slots are free."""
        while (pages := min(CHUNK_PAGES, self._short_pages(wanted_bytes))) > 0:
            gone = self._announce(min(pages, self._store.slots.free_pages) if free_slots_only else pages, keep=True)
            if gone is None:
                break
            self._streams.out.synchronize()
            gone.leave()

    def _wanted_pages(self, address: int, size_bytes: int, most_pages: int) -> int:
        """Of the pages that the model still misses so many, and no fewer than it is about to ask for."""
        buffer = self.buffer
        residency, asked = buffer.get_residency(), self._pages_at(address, size_bytes)
        missing_pages = sum(not state & 1 for state in residency[: -(-int(buffer.offset) // PAGE_BYTES)])
        return max(min(missing_pages, most_pages), sum(not residency[page] & 1 for page in asked if page < len(residency)))

    def waits_at(self, address: int, size_bytes: int) -> bool:
        """Whether a page that the model asks for still lies in host memory."""
        return bool(self._coming.waiting_pages) and any(page in self._coming.images.pages for page in self._pages_at(address, size_bytes))

    def bring(self, address: int, size_bytes: int) -> None:
        """Bring from host memory, not from the file, the pages that the exchange has made no room for and ComfyUI finds some for."""
        with self._giving_up():
            coming, slots, streams = self._coming, self._store.slots, self._streams
            slots.give(coming.announce_at(self._pages_at(address, size_bytes), streams.into))
            streams.into.synchronize()
            slots.give(coming.arrive())
            self.brought_bytes = coming.brought_pages * PAGE_BYTES

    def _pages_at(self, address: int, size_bytes: int) -> range:
        start = address - self.buffer.base_addr
        return range(start // PAGE_BYTES, -(-(start + size_bytes) // PAGE_BYTES))

    def take_left(self) -> list[tuple[Any, int]]:
        """(model, bytes) that have left since this was asked last."""
        found = [(victim.patcher, victim.left_bytes - told) for victim, told in self._told.items() if victim.left_bytes > told]
        self._told = {victim: victim.left_bytes for victim in self._victims}
        return found

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._store.give_up([self._side.images, *(victim.images for victim in self._victims)], self._streams)
            raise

    def _missing_bytes(self) -> int:
        return int(self.patcher.model_size() - self.patcher.loaded_size())

    def _victims_pages(self) -> int:
        return sum(victim.device_pages() for victim in self._victims)

    def _short_pages(self, wanted_bytes: int) -> int:
        """Pages that must leave before so many bytes find room."""
        return -(-int(wanted_bytes - self._room_bytes()) // PAGE_BYTES)

    def _lost_pages(self) -> int:
        """Pages that will have to leave and that there is no slot for."""
        left_out = self._side.images.left_out
        short_pages = self._short_pages(self._coming.waiting_pages * PAGE_BYTES if left_out else self._missing_bytes())
        return min(short_pages, self._victims_pages()) - len(self._coming.images.pages) - self._store.slots.room_pages()

    def _announce(self, pages: int, *, keep: bool) -> Leaving | None:
        """Begin with so many pages of the first victim that has any; None where none has."""
        slots, stream = self._store.slots if keep else None, self._streams.out
        return next((victim for victim in self._victims if victim.announce(pages, slots, stream)), None)
