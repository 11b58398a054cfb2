"""The working set of a node, read from torch's allocator around it: the memory that the allocator held at the peak,
which is gone for weights whether it was all in use or not. A sampler took another 1.2 GB after its first step (H100, flux, 1024 px), and
weights that had come over by then were pushed out again.

ComfyUI 0.26 to 0.33 never reads the allocator's peak (it asks memory_stats for active and reserved bytes alone), so starting it anew
at each node disturbs nothing of its own. A pack that resets it inside a node only makes our number smaller: the profile keeps the largest.
Under dynamic VRAM weights lie outside the allocator; with the legacy patcher those that are loaded when the node ends are subtracted.
Where ComfyUI's compiler allocates beside torch, its number would be too small: then nothing is learned, and the usual headroom stays free.
Resetting costs a few microseconds, reading the statistics about a hundred: nodes below LEAST_S are not asked.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import torch

from ..device.kinds import allocates_beside_torch

LEAST_S = 0.001  # as in the profiles: nothing is learned of shorter nodes


class DevicePeaks:
    """`peaks` by node id: bytes. Stays empty where the device is no CUDA one, or the allocator does not tell. On the executor thread,
    between node start and finish."""

    def __init__(self) -> None:
        device = model_management.get_torch_device()
        is_told = getattr(device, "type", "") == "cuda" and torch.cuda.is_available() and not allocates_beside_torch(device)
        self._device: Any = device if is_told else None
        self._started_s = 0.0
        self.peaks: dict[str, int] = {}

    def node_starts(self, now_s: float) -> None:
        """Begin to watch. Raises nothing that torch does not."""
        if self._device is not None:
            self._started_s = now_s
            torch.cuda.reset_peak_memory_stats(self._device)

    def node_finishes(self, node_id: str, now_s: float) -> None:
        """Keep the largest of a node that ran in several parts."""
        if self._device is None or now_s - self._started_s < LEAST_S:
            return
        weights_bytes = sum(
            int(loaded.model.loaded_size())
            for loaded in list(model_management.current_loaded_models)
            if loaded.model is not None and not loaded.model.is_dynamic() and loaded.device == self._device
        )
        needed_bytes = int(torch.cuda.max_memory_reserved(self._device)) - weights_bytes
        self.peaks[node_id] = max(self.peaks.get(node_id, 0), needed_bytes)
