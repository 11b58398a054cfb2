"""The facts that the host tells of the device: which components lie there, what has a copy in host memory, and what room both have left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management

from .cuda import Cuda
from .memory_usage import copied_bytes, device_bytes, pinnable_bytes, pinned_in_all, resident_bytes
from .models import Models

if TYPE_CHECKING:
    from .page_exchange import PageStore  # needs comfy-aimdo, which not every ComfyUI has


class Contents:
    """`pages` None: nothing is exchanged; `cuda` None: there is no device with memory of its own. `spare()`: bytes of host memory that
    copies may still take. On the executor's thread."""

    def __init__(self, models: Models, pages: PageStore | None, cuda: Cuda | None, spare: Callable[[], int]) -> None:
        self.spared_bytes = 0  # device memory that the user wants left free
        self._models, self._pages, self._cuda, self._spare = models, pages, cuda, spare

    def resident_bytes(self, key: str) -> int:
        """Bytes of the component that need no reading."""
        found = (resident_bytes(loaded.model, self.images_bytes(loaded.model)) for loaded in self._models.loaded(key))
        return max(found, default=0)

    def images_bytes(self, patcher: Any) -> int:
        """Bytes of the model's pages that lie in host memory only."""
        return self._pages.held_bytes(patcher) if self._pages else 0

    def present_bytes(self, key: str) -> int:
        """Bytes of the component on the device."""
        return sum(device_bytes(loaded.model) for loaded in self._models.loaded(key))

    def held(self) -> dict[str, int]:
        """Bytes on the device by component."""
        found = {key: self.present_bytes(key) for key in self._models.alive()}
        return {key: size_bytes for key, size_bytes in found.items() if size_bytes > 0}

    def in_host(self) -> dict[str, int]:
        """Bytes by component that have a copy in host memory which can cross the link at its full rate, or stands in for the device's."""
        found: dict[str, int] = {}
        for key in self._models.alive():
            for loaded in self._models.loaded(key):
                found[key] = found.get(key, 0) + copied_bytes(loaded.model) + self.images_bytes(loaded.model)
        return found

    def host_capacity_bytes(self) -> int:
        """What host copies of weights could take in all: what is left for them, and what ComfyUI's and our pinned copies hold already, as
        far as the system lets be pinned."""
        pinned_bytes, more_bytes = pinned_in_all(), pinnable_bytes()
        held_bytes = self._spare() + pinned_bytes + (self._pages.slots.total_bytes if self._pages else 0)
        return held_bytes if more_bytes is None else min(held_bytes, pinned_bytes + more_bytes)

    def room_bytes(self, headroom_bytes: int) -> int | None:
        """What weights may take beside all that is on the device now and the headroom; None where it has no memory of its own."""
        if self._cuda is None:
            return None
        return int(model_management.get_free_memory(self._cuda.device)) - headroom_bytes - self.spared_bytes

    def limit_bytes(self) -> int | None:
        """What weights may take in all, beside what other programs hold by now; None where the device has no memory of its own."""
        if self._cuda is None:
            return None
        there_bytes = int(model_management.get_free_memory(self._cuda.device)) + sum(self.held().values())
        return max(0, there_bytes - int(model_management.minimum_inference_memory()) - self.spared_bytes)
