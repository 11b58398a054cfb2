"""Runs inside ComfyUI's own Python: models whose weights are exchanged between a small device and small host memory, drawn at random.

<ComfyUI>/.venv/bin/python tests/comfyui/pages_driver.py <ComfyUI> <scratch folder> <trials>
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inside import enter
from late_device import PAGE, Late, compute, patcher, small_pages

HEADROOM_PAGES = 4
CROSSED: list[tuple[int, int]] = []  # of each exchange: bytes that count for the link's rate, and bytes that have come back


def exchange(
    store: Any,
    one: Any,
    others: list[Any],
    free: list[int],
    passed_once: bool = False,
    outside: Any = None,
    headroom: int = 0,
    computes: int = 0,
) -> tuple[int, Any]:
    """With pages that only an exchange may use: how many of them it has kept, and what makes room for parts of the model that are about to
    be used. `headroom`: pages that the exchange leaves free, and those parts may use."""
    from residency.comfyui.device.copy_streams import Streams
    from residency.comfyui.device.link import Link

    lends = [0]
    room_bytes = lambda: (free[0] - lends[0] - headroom) * PAGE  # noqa: E731

    def lent(act: Callable[[], Any]) -> Any:
        lends[0] = 0 if headroom else HEADROOM_PAGES
        free[0] += lends[0]
        try:
            return act()
        finally:
            free[0] -= lends[0]
            lends[0] = 0

    link = Link(store.clock, store.cuda.timed_event)
    streams = Streams(store.cuda.stream(), store.cuda.stream(), link)
    leaving = {other: (outside or {}).get(other, 0) for other in others}
    turn = lent(lambda: store.exchange(one, leaving, streams, room_bytes, passed_once=passed_once, computes_bytes=computes * PAGE))
    kept = max(0, -free[0])
    CROSSED.append((link.crossed()[0], turn.brought_bytes))

    def make_room(parts: list[Any]) -> None:
        for part in parts:
            _, *place = part._v
            if turn.is_short(*place):
                lent(lambda place=place: turn.go_on(*place))
            if turn.waits_at(*place):
                turn.bring(*place)

    return kept, make_room


def trial(seed: int, store_of: Any) -> tuple[int, int, int]:
    """(modules computed with wrong bytes, slots lost, pages of headroom kept) of one random life of three models."""
    draw = random.Random(seed)
    free = [draw.randint(6, 40)]
    limit_bytes = draw.randint(0, 80) * PAGE
    store = store_of(lambda: limit_bytes - store.slots.total_bytes, Late(free))
    models = [patcher(draw, free) for _ in range(3)]
    wrong = kept = 0
    for _ in range(25):
        one, act = draw.choice(models), draw.random()
        if act < 0.6:  # it is its turn: exchange, then compute
            others = [other for other in models if other is not one]
            draw.shuffle(others)
            passed_once = draw.random() < 0.3
            outside = {other: draw.choice((0, 0, 1, 5, 99)) * PAGE for other in others}
            known = draw.choice((0, 0, 5))
            leaving = others[: draw.choice((0, 1, 2, 2))]  # not all may leave
            more, make_room = exchange(store, one, leaving, free, passed_once, outside, computes=known)
            kept += more
            wrong += compute(one, make_room, store.leave_out if passed_once else bool)[1]
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


def scene(store_of: Any, device_pages: int, host_pages: int) -> tuple[Any, list[Any], list[int]]:
    """A store, three models of 52 pages in all, and the pages that are free on their device."""
    free, draw = [device_pages], random.Random(7)
    store = store_of(lambda: host_pages * PAGE - store.slots.total_bytes, Late(free))
    return store, [patcher(draw, free) for _ in range(3)], free


def cycle(
    store_of: Any, device_pages: int, host_pages: int, passed_once: bool = False, outside_pages: int = 0, headroom: int = 0
) -> list[list[int]]:
    """Modules of each of three models, of 52 pages in all, that are read from the file in each round. `passed_once`: the first of them, and
    so many pages of its end are meant for neither tier."""
    store, models, free = scene(store_of, device_pages, host_pages)
    rounds = []
    for _ in range(5):
        filled = []
        for turn, one in enumerate(models):
            soonest_last = [models[(turn + away) % 3] for away in (2, 1)]
            once = passed_once and turn == 0
            _, make_room = exchange(store, one, soonest_last, free, once, {models[0]: outside_pages * PAGE}, headroom)
            filled.append(compute(one, make_room, store.leave_out if once else bool)[0])
        rounds.append(filled)
    return rounds


def lost(store_of: Any, device_pages: int, host_pages: int) -> list[list[tuple[int, int]]]:
    """Of each of the three models in each round, when its turn has begun: pages said to be lost, and pages that are in neither tier."""
    store, models, free = scene(store_of, device_pages, host_pages)
    rounds = []
    for _ in range(4):
        found = []
        for turn, one in enumerate(models):
            buffer = one._vbar_get()
            there = sum(state & 1 for state in buffer.get_residency()) + store.held_bytes(one) // PAGE
            _, make_room = exchange(store, one, [models[(turn + away) % 3] for away in (2, 1)], free)
            found.append((store.lost_bytes(one) // PAGE, -(-buffer.offset // PAGE) - there))
            compute(one, make_room, bool)
        rounds.append(found)
    return rounds


def growing(
    store_of: Any,
    clock: Callable[[], float],
    device_pages: int,
    host_pages: int,
    outside_pages: int = 0,
    at_once: bool = False,
    known: int = 0,
) -> list[int]:
    """Modules of all three models that are read from the file in each round, where what computes beside the weights grows by six pages in
    each turn: pages of others leave for it unasked when none is free. `outside_pages`: the first is passed once, and so many of its end are
    meant for neither tier. `at_once`: it grows behind the first module; `known`: pages of it that are known."""
    free, draw = [device_pages], random.Random(7)
    store = store_of(lambda: host_pages * PAGE - store.slots.total_bytes, Late(free), clock)
    models = [patcher(draw, free) for _ in range(3)]
    rounds = []
    for _ in range(5):
        filled = 0
        for turn, one in enumerate(models):
            others = [models[(turn + away) % 3] for away in (2, 1)]
            once = outside_pages > 0 and turn == 0
            _, make_room = exchange(store, one, others, free, once, {models[0]: outside_pages * PAGE}, 2, known)
            grown = [0]

            def use(parts: list[Any], one: Any = one, make_room: Any = make_room, grown: list[int] = grown) -> None:
                for _ in range(min(6 - grown[0], 6 if at_once else 1)):
                    if free[0] <= 0 and not any(other.buffer.free_memory(PAGE) for other in models if other is not one):
                        one.buffer.free_memory(PAGE)
                    grown[0] += 1
                    free[0] -= 1
                make_room(parts)

            filled += compute(one, use, store.leave_out if once else bool)[0]
            free[0] += grown[0]
        rounds.append(filled)
    return rounds


def pinned_under_a_limit(store_of: Any, most_slabs: int) -> list[int]:
    """Slabs that slots take where the system lets so many be pinned: alone, and beside one that ComfyUI has pinned."""
    import comfy.model_management as model_management

    from residency.comfyui.device import slots
    from residency.transfers import HostMemory, memory

    asked, slab_bytes, taken = memory.host_memory, slots.SLAB_PAGES * PAGE, []
    memory.host_memory = lambda: HostMemory(1 << 40, 1 << 39, "Windows", 1 << 39, most_slabs * slab_bytes)
    try:
        for own_slabs in (0, 1):
            model_management.TOTAL_PINNED_MEMORY = own_slabs * slab_bytes
            store = store_of(lambda: 100 * slab_bytes, Late([0]))
            while store.slots.take() is not None:
                pass
            taken.append(store.slots.total_bytes // slab_bytes)
    finally:
        memory.host_memory, model_management.TOTAL_PINNED_MEMORY = asked, 0
    return taken


def left_free() -> list[int]:
    """GiB of 64 that copies of weights leave free where all else needs 4: by ComfyUI's own headroom of none, 1, 8 and 50 GiB."""
    import comfy.memory_management as memory_management

    from residency.comfyui.device.memory_usage import spare_bytes
    from residency.transfers import memory

    asked, before = memory.host_memory, memory_management.RAM_CACHE_HEADROOM
    found = []
    try:
        memory.host_memory = lambda root="/": memory.HostMemory(1 << 37, 64 << 30, "MemAvailable")
        for headroom_gib in (0, 1, 8, 50):
            memory_management.RAM_CACHE_HEADROOM = headroom_gib << 30
            found.append(64 - (spare_bytes(4 << 30) >> 30))
    finally:
        memory.host_memory, memory_management.RAM_CACHE_HEADROOM = asked, before
    return found


def beyond() -> list[float]:
    """GiB beyond an exchange's headroom that nodes with these working sets (0: unknown) will allocate, for which ComfyUI asks for so many
    beside the weights; torch has one already."""
    from residency.comfyui.device.headroom import Headroom

    cuda: Any = SimpleNamespace(reserved_bytes=lambda: 1 << 30)
    headroom, found = Headroom(cuda, SimpleNamespace(spared_bytes=0)), []  # type: ignore[arg-type]
    for working_set_gib, asked_gib in ((0, 3), (1, 0), (4, 0), (4, 3)):
        headroom.expect(working_set_gib << 30)
        found.append(headroom.beyond_exchange(asked_gib << 30) / (1 << 30))
    return found


def devices() -> dict[str, list[Any]]:
    """Of devices as torch tells of them: what is left undone, whether copies are made, whether the device's memory is counted."""
    import comfy.model_management as model_management
    import torch

    from residency.comfyui.device.cuda import Cuda
    from residency.comfyui.device.memory_usage import device_lacks, device_memory_bytes

    asked, module_of, total = model_management.get_torch_device, torch.get_device_module, model_management.get_total_memory
    found = {}
    try:
        model_management.get_total_memory = lambda device: 1 << 34
        for name, integrated in (("cpu", None), ("mps", None), ("cuda", True), ("cuda", False), ("cuda", None), ("xpu", False)):
            model_management.get_torch_device = lambda name=name: torch.device(name)
            told = SimpleNamespace() if integrated is None else SimpleNamespace(is_integrated=int(integrated))  # older torch tells nothing
            torch.get_device_module = lambda device, told=told: SimpleNamespace(get_device_properties=lambda device: told)
            lacks = [lack.name for lack in device_lacks()]
            found[f"{name} {integrated}"] = [lacks, Cuda.of_comfyui() is not None, device_memory_bytes() is not None]
    finally:
        model_management.get_torch_device, torch.get_device_module, model_management.get_total_memory = asked, module_of, total
    return found


def main() -> None:
    trials = int(sys.argv[3])
    enter(Path(sys.argv[1]), Path(sys.argv[2]))
    import comfy.model_management  # noqa: F401

    from residency.comfyui.device import link
    from residency.comfyui.device.page_exchange import PageStore

    small_pages()
    link.LEAST_CHUNK_BYTES = 1
    found = [trial(seed, PageStore) for seed in range(trials)]
    rounds = [cycle(PageStore, *pages) for pages in ((40, 20), (22, 30))]
    once, scarce = (cycle(PageStore, *pages, passed_once=True) for pages in ((22, 26), (20, 16)))
    answer = {**dict(zip(("wrong", "lost", "kept"), map(sum, zip(*found, strict=True)), strict=True)), "rounds": rounds}
    settled = cycle(PageStore, 22, 26, True, 8)
    found_room = cycle(PageStore, 24, 36, headroom=6)
    answer |= {
        "settled": settled,
        "growing": [
            [growing(PageStore, clock, *pages) for clock in (itertools.count().__next__, lambda: 0.0)] for pages in ((30, 36), (24, 30, 8))
        ],
        "grown at once": [growing(PageStore, itertools.count().__next__, 30, 36, 0, True, known) for known in (0, 4)],
        "found room": found_room,
        "lost pages": lost(PageStore, 20, 16),
        "once": once,
        "scarce": scarce,
        "pinned": pinned_under_a_limit(PageStore, 3),
        "devices": devices(),
        "left free": left_free(),
        "beyond": beyond(),
        "crossed": [list(map(sum, zip(*CROSSED, strict=True))), sum(one == other for one, other in CROSSED), len(CROSSED)],
    }
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
