"""The memory that weights may take: of the device, as the user and other programs leave it, and of the host, as it was measured."""

from __future__ import annotations

from collections.abc import Callable

import comfy.memory_management as memory_management

from ...session import NO_LIMITS, Limits
from ...transfers import memory
from ...transfers.need import MeasuredNeed, idle_bytes
from ..device.memory_usage import device_limit_bytes
from .running import RunningPrompt

BUDGET_REFRESH_S = 0.25  # reading the limits takes 40 us: not at every one of a thousand cheap nodes


class MemoryLimits:
    """`copies_bytes()`: host memory that the process's own copies of weights take; the use of everything else is measured into `need`.
    `device_bytes`: device memory that weights may take; None where it has no memory of its own. `reserve_bytes`: host memory that reading
    ahead leaves alone. On the executor's thread, but for the two numbers, which any thread may read."""

    def __init__(self, copies_bytes: Callable[[], int], need: MeasuredNeed) -> None:
        self.device_bytes = self._whole_device_bytes = device_limit_bytes()  # asked once: the driver may be at work
        self.reserve_bytes = idle_bytes(memory.host_memory().total_bytes)
        self._copies_bytes, self._need = copies_bytes, need

    def spare(self, headroom_bytes: int) -> None:
        """The user wants so much of the device left free. On any thread."""
        if self._whole_device_bytes is not None:
            self.device_bytes = max(0, self._whole_device_bytes - headroom_bytes)

    def prompt_begins(self) -> None:
        self._need.prompt_begins()

    def of_device(self, budget_bytes: int | None, left_bytes: int | None) -> int | None:
        """Bytes of the device for a prompt with that budget; `left_bytes`: those that other programs leave. None: no memory of its own."""
        if self.device_bytes is None:
            return None
        whole_bytes = self.device_bytes
        return min(whole_bytes, budget_bytes or whole_bytes, whole_bytes if left_bytes is None else left_bytes)

    def of_host(self, prompt: RunningPrompt, now_s: float) -> Limits:
        """Looked at now and then; NO_LIMITS in between."""
        if now_s < prompt.next_budget_s:
            return NO_LIMITS
        prompt.next_budget_s = now_s + BUDGET_REFRESH_S
        available_bytes = memory.available_bytes()
        self._need.look(available_bytes, self._copies_bytes())
        reserve_bytes = self.reserve_bytes
        limit_bytes = memory.share(available_bytes - reserve_bytes)
        if prompt.settings.host_budget_bytes is not None and prompt.settings.host_budget_bytes < limit_bytes:
            limit_bytes, reserve_bytes = prompt.settings.host_budget_bytes, 0
        return Limits(limit_bytes, reserve_bytes, host_headroom_bytes=int(memory_management.RAM_CACHE_HEADROOM))
