"""Runs inside ComfyUI's own Python: models whose weights are exchanged between a small device and small host memory, drawn at random.

The device buffer here is plain memory that behaves as comfy-aimdo's source says: pages are mapped when asked for while there
is room, each mapping counts the page's serial up and brings bytes that mean nothing, and under pressure pages go from the end. What
ComfyUI does with it (fault, compare signatures, fill what is not resident, compute) is done by `compute`, which checks every byte.

<ComfyUI>/.venv/bin/python tests/comfyui/pages_driver.py <ComfyUI> <scratch folder> <trials>
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inside import enter

PAGE = 64
HEADROOM_PAGES = 4


class Buffer:
    """A virtual device buffer of `pages` pages; all buffers share the free pages in `free`."""

    def __init__(self, pages: int, free: list[int]) -> None:
        import torch

        self.memory = torch.zeros(pages * PAGE, dtype=torch.uint8)
        self.base_addr, self.max_size = self.memory.data_ptr(), pages * PAGE
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


def patcher(draw: random.Random, free: list[int]) -> Any:
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
    sizes = [draw.randint(10, 200) for _ in range(12)]
    made.size_bytes = sum(-(-size // 8) * 8 for size in sizes)
    made.buffer = Buffer(sum(-(-size // 8) * 8 for size in sizes) // PAGE + 1, free)
    made.model = torch.nn.Module()
    made.model.parts = torch.nn.ModuleList()
    offset = 0
    for size in sizes:
        part: Any = torch.nn.Module()
        part._v = (made.buffer, made.buffer.base_addr + offset, size)
        part._v_signature = None
        part.weight_bytes = torch.randint(0, 255, (size,), dtype=torch.uint8)
        offset += -(-size // 8) * 8
        made.model.parts.append(part)
    return made


def compute(one: Any, before_use: Callable[[list[Any]], object] = bool, loaded: Callable[[Any], object] = bool) -> tuple[int, int]:
    """(modules filled from the file, modules that were resident with other bytes than theirs). `loaded(one)`: before the first of them."""
    import comfy_aimdo.model_vbar as model_vbar
    import torch

    filled = wrong = 0
    one.buffer.set_watermark(one.buffer.max_size)
    loaded(one)
    for part in one.model.parts:
        before_use([part])
        signature = model_vbar.vbar_fault(part._v)
        start = part._v[1] - one.buffer.base_addr
        place = one.buffer.memory[start : start + part._v[2]]
        if signature is not None and model_vbar.vbar_signature_compare(signature, part._v_signature):
            wrong += not torch.equal(place, part.weight_bytes)
            continue
        filled += 1
        if signature is not None:
            place.copy_(part.weight_bytes)
            part._v_signature = signature
    return filled, wrong


def exchange(store: Any, one: Any, others: list[Any], free: list[int], passed_once: bool = False) -> int:
    """With headroom that only an exchange may use; returns the pages of it that it has kept."""
    from residency.comfyui.device.page_exchange import Streams

    free[0] += HEADROOM_PAGES
    streams = Streams(LateStream(), LateStream())
    store.exchange(one, others, streams, lambda: (free[0] - HEADROOM_PAGES) * PAGE, passed_once=passed_once)
    free[0] -= HEADROOM_PAGES
    return max(0, -free[0])


def trial(seed: int, store_of: Any) -> tuple[int, int, int]:
    """(modules computed with wrong bytes, slots lost, pages of headroom kept) of one random life of three models."""
    draw = random.Random(seed)
    free = [draw.randint(6, 40)]
    limit_bytes = draw.randint(0, 80) * PAGE
    store = store_of(lambda: limit_bytes - store.slots.total_bytes)
    models = [patcher(draw, free) for _ in range(3)]
    wrong = kept = 0
    for _ in range(25):
        one, act = draw.choice(models), draw.random()
        if act < 0.6:  # it is its turn: exchange, then compute
            others = [other for other in models if other is not one]
            draw.shuffle(others)
            passed_once = draw.random() < 0.3
            kept += exchange(store, one, others[: draw.choice((0, 1, 2, 2))], free, passed_once)  # not all may leave
            wrong += compute(one, loaded=store.leave_out if passed_once else bool)[1]
        elif act < 0.7:  # pressure from outside
            one.buffer.free_memory(draw.randint(1, 5) * PAGE)
        elif act < 0.8:  # a patch has changed the weights
            for part in one.model.parts:
                if draw.random() < 0.5:
                    part.weight_bytes = part.weight_bytes.clone().random_(0, 255)
                part._v_signature = None
        else:
            wrong += compute(one)[1]
    used = sum(store.held_bytes(model) for model in models) + len(store.slots._free) * PAGE
    return wrong, store.slots.total_bytes - used, kept


def cycle(store_of: Any, device_pages: int, host_pages: int, passed_once: bool = False) -> list[list[int]]:
    """Modules of each of three models, of 52 pages in all, that are read from the file in each round. `passed_once`: the first of them."""
    free, draw = [device_pages], random.Random(7)
    store = store_of(lambda: host_pages * PAGE - store.slots.total_bytes)
    models = [patcher(draw, free) for _ in range(3)]
    rounds = []
    for _ in range(5):
        filled = []
        for turn, one in enumerate(models):
            soonest_last = [models[(turn + away) % 3] for away in (2, 1)]
            once = passed_once and turn == 0
            exchange(store, one, soonest_last, free, once)
            filled.append(compute(one, loaded=store.leave_out if once else bool)[0])
        rounds.append(filled)
    return rounds


class LateStream:
    """Copies wait here, oldest first, until somebody waits for them."""

    active: LateStream | None = None

    def __init__(self) -> None:
        self.copies: list[tuple[Any, Any]] = []
        self.done = 0

    def run(self, until: int) -> None:
        while self.done < until:
            target, source = self.copies[self.done]
            COPY(target, source)
            self.done += 1

    def synchronize(self) -> None:
        self.run(len(self.copies))

    def query(self) -> bool:
        return self.done == len(self.copies)

    def wait_stream(self, other: object) -> None:
        """What is computed with is there when `compute` returns."""


@contextlib.contextmanager
def on(stream: LateStream) -> Iterator[None]:
    LateStream.active = stream
    try:
        yield
    finally:
        LateStream.active = None


def copy_(target: Any, source: Any, non_blocking: bool = False) -> Any:
    if LateStream.active is None:
        return COPY(target, source)
    LateStream.active.copies.append((target, source))
    return target


def copies_come_late() -> None:
    """From here on."""
    global COPY
    import torch

    COPY = torch.Tensor.copy_
    torch.Tensor.copy_ = copy_
    torch.cuda.stream = on


def main() -> None:
    trials = int(sys.argv[3])
    enter(Path(sys.argv[1]), Path(sys.argv[2]))
    import comfy.model_management  # noqa: F401
    import comfy_aimdo.torch as aimdo_torch
    import torch

    from residency.comfyui.device import onload
    from residency.comfyui.device import page_exchange as exclusive

    exclusive.PAGE_BYTES = onload.PAGE_BYTES = PAGE
    exclusive.SLAB_PAGES, exclusive.CHUNK_PAGES, exclusive.TRANSIT_PAGES = 4, 2, 4
    copies_come_late()
    torch.cuda.current_stream = lambda device=None: LateStream()

    def at(address: int, size_bytes: int, device: object) -> Any:
        return torch.frombuffer((ctypes.c_uint8 * size_bytes).from_address(address), dtype=torch.uint8)

    aimdo_torch.get_tensor_from_raw_ptr = at
    exclusive.Slots._allocate = staticmethod(lambda size_bytes: torch.empty(size_bytes, dtype=torch.uint8))
    found = [trial(seed, exclusive.PageStore) for seed in range(trials)]
    rounds = [cycle(exclusive.PageStore, *pages) for pages in ((40, 20), (22, 30))]
    once = cycle(exclusive.PageStore, 22, 26, passed_once=True)
    answer = {**dict(zip(("wrong", "lost", "kept"), map(sum, zip(*found, strict=True)), strict=True)), "rounds": rounds, "once": once}
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
