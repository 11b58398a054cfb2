"""Pinned host memory for pages of the device, which an exchange writes back and brings again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from .cuda import Cuda
from .memory_usage import pinnable_bytes
from .onload import PAGE_BYTES

SLAB_PAGES = 16  # slots are allocated 0.5 GiB at a time: registering memory costs 0.2 s of it


class Slots:
    """Pinned host memory in slots of one page. Takes as much as `spare_bytes()` gives, and no more than the system lets be pinned;
    allocated slots are used again."""

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

    @property
    def free_pages(self) -> int:
        """Pages that images could be taken of without any more memory."""
        return len(self._free)

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
