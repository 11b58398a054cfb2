"""A device for the drivers: pages as comfy-aimdo's source describes them, and copies that happen only when somebody waits for them.

The device buffer is plain memory: pages are mapped when asked for while there is room, each mapping counts the page's serial up and brings
bytes that mean nothing, and under pressure pages go from the end. What ComfyUI does with it (fault, compare signatures, fill what is not
resident, compute) is done by `compute`, which checks every byte.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PAGE = 64
REPEATS_BYTES = 65_521


class Buffer:
    """A virtual device buffer for `size_bytes`, with a page more than they need; all buffers share the free pages in `free`."""

    def __init__(self, size_bytes: int, free: list[int]) -> None:
        import torch

        pages = size_bytes // PAGE + 1
        self.memory = torch.zeros(pages * PAGE, dtype=torch.uint8)
        self.base_addr, self.max_size = self.memory.data_ptr(), pages * PAGE
        self.offset = size_bytes
        self.mapped, self.serials = [0] * pages, [0] * pages
        self.watermark, self.free = pages, free

    def get_residency(self) -> list[int]:
        return list(self.mapped)

    def get_watermark(self) -> int:
        return self.watermark

    def get_nr_pages(self) -> int:
        return len(self.mapped)

    def set_watermark(self, size_bytes: int) -> None:
        self.watermark = min(len(self.mapped), -(-size_bytes // PAGE))

    def loaded_size(self) -> int:
        return sum(self.mapped) * PAGE

    def fault(self, address: int, size_bytes: int) -> Any:
        first, end = (address - self.base_addr) // PAGE, -(-(address - self.base_addr + size_bytes) // PAGE)
        if end > self.watermark:
            return None
        signature = (ctypes.c_uint32 * (size_bytes // PAGE + 2))()
        for index, page in enumerate(range(first, end)):
            if not self.mapped[page]:
                if self.free[0] <= 0:
                    return None
                self.free[0] -= 1
                self.mapped[page] = 1
                self.serials[page] += 1
                self.spoil(page)
            signature[index] = self.serials[page]
        return signature

    def unpin(self, address: int, size_bytes: int) -> None:
        """Nothing pins pages here."""

    def free_memory(self, size_bytes: int) -> int:
        freed = 0
        while freed < -(-size_bytes // PAGE) and self.watermark > 0:
            page = self.watermark - 1
            if self.mapped[page]:
                self.mapped[page] = 0
                self.free[0] += 1
                self.spoil(page)
                freed += 1
            self.watermark -= 1
        return freed * PAGE

    def spoil(self, page: int) -> None:
        self.memory[page * PAGE : (page + 1) * PAGE].random_(0, 255)


def model(draw: random.Random, buffer_of: Callable[[int], Any], unit: int = 1, modules: int = 12) -> tuple[Any, Any, int]:
    """(a torch module of `modules` parts, its buffer, bytes of the model). `unit`: bytes that stand for one here."""
    import torch

    sizes = [draw.randint(10, 200) * unit for _ in range(modules)]
    size_bytes = sum(-(-size // (8 * unit)) * 8 * unit for size in sizes)
    buffer = buffer_of(size_bytes)
    made: Any = torch.nn.Module()
    made.parts = torch.nn.ModuleList()
    offset = 0
    for size in sizes:
        part: Any = torch.nn.Module()
        part._v = (buffer, buffer.base_addr + offset, size)
        part._v_signature = None
        part.weight_bytes = random_bytes(size)
        offset += -(-size // (8 * unit)) * 8 * unit
        made.parts.append(part)
    return made, buffer, size_bytes


def random_bytes(size_bytes: int) -> Any:
    """Large ones repeat, at no multiple of a page: drawing 2 GB would take 10 s."""
    import torch

    block = torch.randint(0, 255, (min(size_bytes, REPEATS_BYTES),), dtype=torch.uint8)
    return block.repeat(-(-size_bytes // len(block)))[:size_bytes].clone()


def patcher(draw: random.Random, free: list[int]) -> Any:
    """The parts of a dynamic patcher that the exchange looks at."""
    import torch

    class Patcher:
        load_device = torch.device("cpu")

        def _vbar_get(self) -> Buffer:
            return self.buffer

        def model_size(self) -> int:
            return self.size_bytes

        def loaded_size(self) -> int:
            return self.buffer.loaded_size()

    made: Any = Patcher()
    made.model, made.buffer, made.size_bytes = model(draw, lambda size_bytes: Buffer(size_bytes, free))
    made.model.dynamic_pins = {made.load_device: {}}
    return made


def compute(
    one: Any,
    before_use: Callable[[list[Any]], object] = bool,
    loaded: Callable[[Any], object] = bool,
    bytes_at: Callable[[int, int], Any] | None = None,
) -> tuple[int, int]:
    """(modules filled from the file, modules that were resident with other bytes than theirs). `loaded(one)`: before the first of them;
    `bytes_at(address, size)` gives the device's memory where the buffer is none of this module."""
    import comfy_aimdo.model_vbar as model_vbar
    import torch

    filled = wrong = 0
    one.buffer.set_watermark(one.buffer.max_size)
    loaded(one)
    for part in one.model.parts:
        before_use([part])
        signature = model_vbar.vbar_fault(part._v)
        if signature is not None:
            start = part._v[1] - one.buffer.base_addr
            place = one.buffer.memory[start : start + part._v[2]] if bytes_at is None else bytes_at(part._v[1], part._v[2])
        if signature is not None and model_vbar.vbar_signature_compare(signature, part._v_signature):
            wrong += not torch.equal(place.cpu(), part.weight_bytes)
            model_vbar.vbar_unpin(part._v)
            continue
        filled += 1
        if signature is not None:
            place.copy_(part.weight_bytes)
            part._v_signature = signature
            model_vbar.vbar_unpin(part._v)
    return filled, wrong


class LateStream:
    """Copies wait here, oldest first, until somebody waits for them, on any thread. `arrives(target, source)` before each."""

    def __init__(self, arrives: Callable[[Any, Any], object] = lambda target, source: None) -> None:
        self.arrives = arrives
        self.copies: list[tuple[Any, Any]] = []
        self.done = 0
        self._lock = threading.Lock()

    def run(self, until: int) -> None:
        with self._lock:
            while self.done < until:
                target, source = self.copies[self.done]
                self.arrives(target, source)
                target.copy_(source)
                self.done += 1

    def synchronize(self) -> None:
        self.run(len(self.copies))

    def query(self) -> bool:
        return self.done == len(self.copies)

    def record_event(self) -> LateEvent:
        event = LateEvent()
        event.record(self)
        return event


class Computing:
    """The stream on which everything happens at once."""

    def wait_stream(self, other: LateStream) -> None:
        other.synchronize()


class LateEvent:
    def record(self, stream: LateStream) -> None:
        self.stream, self.behind = stream, len(stream.copies)

    def wait(self) -> None:
        self.stream.run(self.behind)

    def query(self) -> bool:
        return self.stream.done >= self.behind

    def elapsed_time(self, later: LateEvent) -> float:
        return 1.0


class Late:
    """Stands in for residency.comfyui.device.cuda.Cuda. `fails` is called before each copy is announced, with how many were before.

    `unmapped` counts copies that have met pages of `buffers` which were given back meanwhile: a real device stops at that.
    """

    def __init__(self, free: list[int], buffers: Sequence[Buffer] = ()) -> None:
        import torch

        self.device = torch.device("cpu")
        self.free, self.buffers, self.unmapped = free, buffers, 0
        self.fails: Callable[[int], object] = bool
        self.copies = 0
        self._active: LateStream | None = None

    def capturing(self) -> bool:
        return False

    def stream(self) -> LateStream:
        return _Late(self._arrives)

    def _arrives(self, target: Any, source: Any) -> None:
        for tensor in (target, source):
            for buffer in self.buffers:
                offset = tensor.data_ptr() - buffer.base_addr
                if 0 <= offset < buffer.max_size:
                    pages = range(offset // PAGE, -(-(offset + tensor.numel()) // PAGE))
                    self.unmapped += not all(buffer.mapped[page] for page in pages)

    def computing(self) -> Computing:
        return Computing()

    @contextlib.contextmanager
    def on(self, stream: LateStream) -> Iterator[None]:
        self._active = stream
        try:
            yield
        finally:
            self._active = None

    def copy(self, target: Any, source: Any) -> None:
        self.copies += 1
        self.fails(self.copies)
        assert self._active is not None
        self._active.copies.append((target, source))

    def outside_graphs(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def timed_event(self) -> LateEvent:
        return LateEvent()

    def free_bytes(self) -> int:
        return self.free[0] * PAGE

    def reserved_bytes(self) -> int:
        return 0

    def bytes_at(self, address: int, size_bytes: int) -> Any:
        import torch

        return torch.frombuffer((ctypes.c_uint8 * size_bytes).from_address(address), dtype=torch.uint8)

    def pinned(self, size_bytes: int) -> Any:
        import torch

        return torch.empty(size_bytes, dtype=torch.uint8)

    def unpin(self, block: Any) -> None:
        """Plain memory goes with its tensor."""


class _Late(LateStream):
    """Waits for nothing: what is computed with is there when `compute` returns."""

    def wait_stream(self, other: object) -> None: ...


def small_pages() -> None:
    """From here on the pack's pages, slabs and chunks are as small as this device's."""
    from residency.comfyui.device import exchange_sides, onload, page_exchange, slots

    for module in (exchange_sides, onload, page_exchange, slots):
        module.PAGE_BYTES = PAGE
    page_exchange.SLAB_PAGES = slots.SLAB_PAGES = 4
    page_exchange.CHUNK_PAGES, page_exchange.TRANSIT_PAGES = 2, 4
