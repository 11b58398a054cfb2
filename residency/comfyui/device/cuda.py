"""The device that weights are copied to: its streams, its events, its free memory, and bytes at its addresses.

Everything that the copies beside the computation ask of torch and comfy-aimdo is asked here, so that a test can put a slow or a failing
device in its place.
"""

from __future__ import annotations

import mmap
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, cast

import comfy.model_management as model_management
import torch

from .memory_usage import shares_host_memory

try:
    import comfy.model_prefetch as model_prefetch
except ImportError:  # 0.26 has none
    model_prefetch = None

try:
    import comfy_aimdo.torch as aimdo_torch
except ImportError:  # a ComfyUI without comfy-aimdo has no pages to copy to
    aimdo_torch = None

PORTABLE = 1  # cudaHostRegisterPortable: for every context of the process, as ComfyUI pins


class Cuda:
    """One CUDA device. On the executor's thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @staticmethod
    def of_comfyui() -> Cuda | None:
        """The device that ComfyUI computes on; None where that is no CUDA device, or one that shares the host's memory."""
        device = model_management.get_torch_device()
        return Cuda(device) if device.type == "cuda" and not shares_host_memory(device) else None

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def computing(self) -> torch.cuda.Stream:
        """The stream on which ComfyUI computes now."""
        return torch.cuda.current_stream(self.device)

    def capturing(self) -> bool:
        """Whether announced work is being recorded as a graph: nothing of it runs now."""
        return bool(torch.cuda.is_current_stream_capturing())

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """Announce copies on the stream while this is open."""
        return torch.cuda.stream(stream)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Announce a copy of bytes between the device and pinned memory."""
        target.copy_(source, non_blocking=True)

    def outside_graphs(self) -> AbstractContextManager[Any]:
        """Keep allocations made while this is open out of those that ComfyUI's compiler records and replays."""
        pause = getattr(model_prefetch, "pause_malloc_graph", None)
        return nullcontext() if pause is None else cast(AbstractContextManager[Any], pause())

    def timed_event(self) -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def free_bytes(self) -> int:
        """Device memory that nobody has: torch's reserved memory is left to activations."""
        return int(torch.cuda.mem_get_info(self.device)[0])

    def reserved_bytes(self) -> int:
        """Bytes that torch has taken for activations and for weights outside of pages."""
        return int(torch.cuda.memory_reserved(self.device))

    def bytes_at(self, address: int, size_bytes: int) -> torch.Tensor:
        """Mapped device memory as a tensor of bytes."""
        return cast(torch.Tensor, aimdo_torch.get_tensor_from_raw_ptr(address, size_bytes, self.device))

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """New host memory that the device can read and write by itself, until `unpin`. Raises RuntimeError where the system gives none.

        Large pages, touched by several threads before the driver looks at them: alone it takes 0.2 s for 0.5 GiB.
        """
        try:
            memory = mmap.mmap(-1, size_bytes)
        except OSError as error:
            raise RuntimeError(f"no host memory: {error}") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        block = torch.frombuffer(memory, dtype=torch.uint8)
        block.zero_()
        driver = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(driver.cudaHostRegister(block.data_ptr(), size_bytes, PORTABLE)) != 0:
            raise RuntimeError("the driver pins no more host memory")
        return block

    def unpin(self, block: torch.Tensor) -> None:
        """The block may go back to the system: nothing is copied from or to it any more."""
        torch.cuda.cudart().cudaHostUnregister(block.data_ptr())  # type: ignore[no-untyped-call]
