"""Bytes a second between the host and the CUDA device. Run as a script: prints one JSON object, {} where there is no device."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIZE_BYTES = 1 << 30
SMALL_BYTES = 1 << 25  # 0.6 ms at 55 GB/s: beside a server that waits
TRIES = 3


def pinned_bytes_per_s(size_bytes: int = SMALL_BYTES) -> float | None:
    """From pinned host memory to the device, the quickest of three copies; None where there is no device. Raises RuntimeError where there
    is no memory for it."""
    import torch

    if not torch.cuda.is_available():
        return None
    source = torch.ones(size_bytes, dtype=torch.uint8, pin_memory=True)
    return _rate(torch.empty(size_bytes, dtype=torch.uint8, device="cuda"), source)


def _rate(target: torch.Tensor, source: torch.Tensor) -> float:
    import torch

    quickest_s = float("inf")
    for _ in range(TRIES):
        torch.cuda.synchronize()
        before = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        quickest_s = min(quickest_s, time.perf_counter() - before)
    return source.nbytes / quickest_s


def measure_link(size_bytes: int = SIZE_BYTES) -> dict[str, Any]:
    """The device's name and bytes, torch's version, and bytes per second of one copy, the quickest of three."""
    import torch

    if not torch.cuda.is_available():
        return {}
    pageable = torch.ones(size_bytes, dtype=torch.uint8)
    pinned = torch.ones(size_bytes, dtype=torch.uint8, pin_memory=True)
    device = torch.ones(size_bytes, dtype=torch.uint8, device="cuda")
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return {
        "device": torch.cuda.get_device_name(),
        "device_bytes": total_bytes,
        "device_free_bytes": free_bytes,
        "torch": torch.__version__,
        "pinned_bytes_per_s": _rate(device, pinned),
        "pageable_bytes_per_s": _rate(device, pageable),
        "pinned_back_bytes_per_s": _rate(pinned, device),
    }


if __name__ == "__main__":
    print(json.dumps(measure_link()))
