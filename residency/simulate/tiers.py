"""The tiers of a simulated machine: which bytes of which component are in the page cache, in pinned buffers, on the device.

The page cache holds byte ranges; pins and device residency are prefixes, as ComfyUI fills both in the order of the layers and
gives up from the end.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from enum import Enum

GRAINS = 4096  # of all room: no less of a component leaves at once


class Victim(Enum):
    """Whose cached bytes go first when the host is full."""

    LEAST_RECENT = "least recently used"  # the kernel's rule, in short
    MOST_RECENT = "most recently used"


class Ranges:
    """Disjoint half-open byte ranges [start, end), in the order in which they were read."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.size_bytes = 0

    def within(self, upto: int) -> int:
        """Bytes present of the first `upto`."""
        return sum(min(end, upto) - start for start, end in self.spans if start < upto)

    def run_at(self, at: int, upto: int) -> tuple[bool, int]:
        """Whether the byte at `at` is present, and where that ceases to be so, at most `upto`."""
        reached = at
        for start, end in sorted(self.spans):
            if start > reached:
                return (True, min(reached, upto)) if reached > at else (False, min(start, upto))
            reached = max(reached, end)
        return (True, min(reached, upto)) if reached > at else (False, upto)

    def add(self, start: int, end: int) -> None:
        """Bytes were read; those that were present already count as just read."""
        if start >= end:
            return
        if self.spans and self.spans[-1][1] == start and all(high <= start or low >= end for low, high in self.spans):
            self.spans[-1] = (self.spans[-1][0], end)
            self.size_bytes += end - start
            return
        kept = [piece for low, high in self.spans for piece in ((low, min(high, start)), (max(low, end), high)) if piece[0] < piece[1]]
        self.spans = [*kept, (start, end)]
        self.size_bytes = sum(high - low for low, high in self.spans)

    def drop_oldest(self, size_bytes: int) -> int:
        """Take away the bytes that were read first, at most `size_bytes`; returns how many."""
        left = size_bytes
        while left > 0 and self.spans:
            start, end = self.spans.pop(0)
            if end - start > left:
                self.spans.insert(0, (start + left, end))
                left = 0
            else:
                left -= end - start
        self.size_bytes -= size_bytes - left
        return size_bytes - left

    def cut(self, start: int, end: int) -> int:
        """Take away the bytes in [start, end); returns how many."""
        before = self.size_bytes
        pieces = (piece for low, high in self.spans for piece in ((low, min(high, start)), (max(low, end), high)))
        self.spans = [piece for piece in pieces if piece[0] < piece[1]]
        self.size_bytes = sum(end - start for start, end in self.spans)
        return before - self.size_bytes


class Host:
    """Page cache, pins and images over one limit. Pins and images come before the page cache; the page cache gets the rest.

    The image of a component is its bytes that were written back: those behind those that lie on the device, which have no other copy.
    """

    def __init__(self, limit_bytes: int, victim: Victim = Victim.LEAST_RECENT) -> None:
        self.limit_bytes = limit_bytes
        self.pins: dict[str, int] = {}  # most recently pinned or used last
        self.images: dict[str, int] = {}
        self.peak_bytes = 0
        self._victim = victim
        self._cache: dict[str, Ranges] = {}  # most recently touched last
        self._cached_bytes = 0
        self._pinned_bytes = 0

    @property
    def used_bytes(self) -> int:
        return self._cached_bytes + self._held_bytes

    @property
    def _held_bytes(self) -> int:
        """Bytes of host memory that are no page cache: pinned, or images of pages."""
        return self._pinned_bytes + sum(self.images.values())

    @property
    def available_bytes(self) -> int:
        """As the system tells it: the page cache counts as available."""
        return self.limit_bytes - self._held_bytes

    def cached(self, key: str) -> Ranges:
        """The component's ranges in the page cache; not to be changed."""
        return self._cache.get(key) or Ranges()

    def touch(self, key: str) -> None:
        """The component was used."""
        if key in self._cache:
            self._cache[key] = self._cache.pop(key)
        if key in self.pins:
            self.pins[key] = self.pins.pop(key)

    def cache(self, key: str, start: int, end: int, protected: Collection[str] = ()) -> None:
        """Pages were read. Those that do not fit beside protected components are not kept."""
        ranges = self._cache.pop(key, None) or Ranges()
        before = ranges.size_bytes
        ranges.add(start, end)
        self._cache[key] = ranges
        self._cached_bytes += ranges.size_bytes - before
        self._shrink(key, protected)

    def drop(self, key: str, start: int = 0, end: int | None = None) -> int:
        """Give a component's pages in [start, end) back, None: to its end; returns how many bytes were freed."""
        ranges = self._cache.get(key, Ranges())
        freed = ranges.cut(start, sys.maxsize if end is None else end)
        if not ranges.spans:
            self._cache.pop(key, None)
        self._cached_bytes -= freed
        return freed

    def pin(self, key: str, upto: int, floor_bytes: int) -> int:
        """Grow the component's pinned prefix to `upto` bytes while `floor_bytes` stay available; returns the prefix."""
        held = self.pins.pop(key, 0)
        grown = held + max(0, min(upto - held, self.available_bytes - floor_bytes))
        if grown:
            self.pins[key] = grown
        self._pinned_bytes += grown - held
        self._shrink(key, (key,))
        return grown

    def write_back(self, key: str, size_bytes: int) -> None:
        """Bytes have left the device for the component's image."""
        if size_bytes > 0:
            self.images[key] = self.images.get(key, 0) + size_bytes
            self._shrink(key, (key,))

    def cut_image(self, key: str, size_bytes: int) -> int:
        """Bytes of the image are on the device again, or given up; returns how many."""
        gone = min(size_bytes, self.images.get(key, 0))
        if gone:
            self.images[key] -= gone
            if not self.images[key]:
                del self.images[key]
        return gone

    def unpin(self, size_bytes: int) -> None:
        """Give pins up, the most recently used component's first, each from its end (free_pins, partially_unload_ram)."""
        for key in reversed(list(self.pins)):
            if size_bytes <= 0:
                return
            gone = min(size_bytes, self.pins[key])
            self.pins[key] -= gone
            if not self.pins[key]:
                del self.pins[key]
            self._pinned_bytes -= gone
            size_bytes -= gone

    def resize(self, limit_bytes: int, floor_bytes: int) -> None:
        """Other programs took memory, or gave it back."""
        self.limit_bytes = limit_bytes
        self.unpin(floor_bytes - self.available_bytes)
        self._shrink("", ())

    def _shrink(self, newest: str, protected: Collection[str]) -> None:
        over = self.used_bytes - max(self.limit_bytes, self._held_bytes)
        if over > 0:
            order = list(self._cache)
            if self._victim is Victim.MOST_RECENT:
                order.reverse()
            spared = set(protected)
            first = [key for key in order if key not in spared and key != newest]
            last = [key for key in order if key == newest or key in spared]
            # the newest bytes go before those of a running node, and those only when nothing else is left
            last.sort(key=lambda key: key in spared)
            for key in first + last:
                # what is read may push out the very next bytes of its own: one at a time, a run would have as many events as bytes
                gone = self._cache[key].drop_oldest(max(over, self.limit_bytes // GRAINS))
                over -= gone
                self._cached_bytes -= gone
                if not self._cache[key].spans:
                    del self._cache[key]
                if over <= 0:
                    break
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)


class Device:
    """Weights on the device: prefixes by component, least recently used given up first, from the end (vbar priorities)."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = max(0, limit_bytes)
        self.held: dict[str, int] = {}
        self.peak_bytes = 0
        self.working_set_bytes = 0  # of the node that ran last

    def make_room(self, key: str, wanted_bytes: int, working_set_bytes: int, beside: Collection[str] = ()) -> int:
        """Hold as much of the component's prefix as fits beside the working set and the node's other components; returns it."""
        self.working_set_bytes = working_set_bytes
        held = self.held.pop(key, 0)
        free = self.limit_bytes - working_set_bytes - sum(self.held.values())
        for other in list(self.held):
            if free >= wanted_bytes:
                break
            if other in beside:
                continue
            gone = min(self.held[other], wanted_bytes - free)
            self.held[other] -= gone
            free += gone
            if not self.held[other]:
                del self.held[other]
        kept = max(0, min(wanted_bytes, free))
        if kept:
            self.held[key] = kept
        self.peak_bytes = max(self.peak_bytes, sum(self.held.values()) + working_set_bytes)
        return min(held, kept)

    def fill(self, key: str, upto: int) -> None:
        """A copy has come so far."""
        if upto > self.held.get(key, 0):
            self.held[key] = upto
        self.peak_bytes = max(self.peak_bytes, sum(self.held.values()) + self.working_set_bytes)

    def drop(self, key: str, keep_bytes: int = 0) -> int:
        """Give a component up, all but its first `keep_bytes`; returns the bytes."""
        held = self.held.pop(key, 0)
        if held and keep_bytes:
            self.held[key] = min(held, keep_bytes)
        return held - self.held.get(key, 0)
