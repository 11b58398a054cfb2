"""The facts that the host tells of the device: the components there, those with a copy in host memory, and the room left in both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management

from ...core.component import Component
from ...core.device_placement import Copies, Placement
from ...weights.components import LANGUAGE_MODEL
from .cuda import Cuda
from .memory_usage import buffers_bytes, copied_bytes, device_bytes, pinnable_bytes, pinned_in_all, resident_bytes
from .models import Models

if TYPE_CHECKING:
    from .page_exchange import PageStore  # needs comfy-aimdo, which not every ComfyUI has

try:
    from .file_slices import NO_IMAGES, FileSlices
except ImportError:
    FileSlices = None  # type: ignore[assignment, misc]

# of a component's bytes: what a file holds and what a model keeps differ by paddings and small tensors kept elsewhere
LOADED_SHARE = 0.95


class Contents:
    """`pages` None: nothing is exchanged; `cuda` None: there is no device with memory of its own. `spare()`: bytes of host memory that
    copies may still take. `plan()`: where the running prompt's weights are meant to lie. On the executor's thread."""

    def __init__(
        self, models: Models, pages: PageStore | None, cuda: Cuda | None, spare: Callable[[], int], plan: Callable[[], Placement]
    ) -> None:
        self.spared_bytes = 0  # device memory that the user wants left free
        self._models, self._pages, self._cuda, self._spare, self._plan = models, pages, cuda, spare, plan
        self._slices = None if FileSlices is None else FileSlices()

    def held_first(self, component: Component, *, in_use: bool = False) -> tuple[Component, int]:
        """The component with the bytes that the process holds in front, and how many of it need no reading when a node computes with it.

        None of a legacy model: its loader reads the file whenever it runs. Bytes that the plan has no room for, and those that did not last
        until the model's last turn, do not stay: they will be read. `in_use`: while its node runs, those without room in the plan are held.
        """
        plan = self._plan()
        planned_bytes = plan.outside.get(component.key, 0)
        outside_bytes = 0 if in_use else planned_bytes
        for loaded in self._models.loaded(component.key):
            patcher = loaded.model
            if patcher.is_dynamic():
                end_bytes = outside_bytes
                # of this end pinned weights are no part: they are looked at one by one
                if self._pages is not None and plan.copies is Copies.ONE and not (in_use and planned_bytes):
                    end_bytes = max(end_bytes, self._pages.lost_bytes(patcher))
                if self._slices is not None:
                    images = NO_IMAGES if self._pages is None else self._pages.images_of(patcher)
                    if (laid_out := self._slices.held_first(component, patcher, images, end_bytes)) is not None:
                        return laid_out
            elif component.kind != LANGUAGE_MODEL:
                return component, 0
            there_bytes = resident_bytes(patcher, self.images_bytes(patcher))
            complete = there_bytes >= LOADED_SHARE * component.size_bytes
            stays_bytes = component.size_bytes - outside_bytes
            return component, stays_bytes if complete else min(there_bytes, stays_bytes)
        return component, 0

    def copies_bytes(self) -> int:
        """Host memory that copies of weights take: pinned buffers of dynamic models and of their patches, and slots for their pages."""
        found = (buffers_bytes(entry.model) for entry in model_management.current_loaded_models if _is_dynamic(entry.model))
        return sum(found) + (self._pages.slots.total_bytes if self._pages else 0)

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
        """Bytes that host copies of weights could take in all: the room left for them, and the bytes of ComfyUI's and our pinned copies,
        as far as the system lets be pinned."""
        pinned_bytes, more_bytes = pinned_in_all(), pinnable_bytes()
        held_bytes = self._spare() + pinned_bytes + (self._pages.slots.total_bytes if self._pages else 0)
        return held_bytes if more_bytes is None else min(held_bytes, pinned_bytes + more_bytes)

    def room_bytes(self, headroom_bytes: int) -> int | None:
        """Bytes that weights may take beside all that is on the device now and the headroom; None where it has no memory of its own."""
        if self._cuda is None:
            return None
        return int(model_management.get_free_memory(self._cuda.device)) - headroom_bytes - self.spared_bytes

    def limit_bytes(self) -> int | None:
        """Bytes that weights may take in all, beside the memory of other programs by now; None where the device has no memory of its
        own."""
        if self._cuda is None:
            return None
        there_bytes = int(model_management.get_free_memory(self._cuda.device)) + sum(self.held().values())
        return max(0, there_bytes - int(model_management.minimum_inference_memory()) - self.spared_bytes)


def _is_dynamic(patcher: Any) -> bool:
    return patcher is not None and bool(patcher.is_dynamic())
