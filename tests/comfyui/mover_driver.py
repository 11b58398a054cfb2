"""Runs inside ComfyUI's own Python: the device mover of the pack under the pack's own core, stories and lives drawn at random.

`Scene` plays the host of the pack, late_device.compute ComfyUI, which checks every byte. The device is late_device's plain memory, or with
`cuda` a real one with comfy-aimdo's own buffers, whose room is kept small.

<ComfyUI>/.venv/bin/python tests/comfyui/mover_driver.py <ComfyUI> <scratch folder> <trials> [cuda]
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inside import enter
from late_device import PAGE, Buffer, Late, compute, model, random_bytes, small_pages

HEADROOM_PAGES = 4
HANGS_S = 120.0  # a thread that has not ended by then never will
Told = list[Any]


class LateBench:
    """Devices of plain memory."""

    page_bytes, unit, on_device, every = PAGE, 1, None, 3

    def __init__(self, pages: int) -> None:
        self.free, self.buffers = [pages], []  # type: ignore[var-annotated]
        self.cuda: Any = Late(self.free, self.buffers)

    def buffer(self, size_bytes: int) -> Any:
        self.buffers.append(Buffer(size_bytes, self.free))
        return self.buffers[-1]

    def pin(self, tensor: Any) -> Any:
        return tensor.clone()

    def free_pages(self) -> int:
        return self.free[0]


class CudaBench:
    """A real device of which the models' pages may take `pages`."""

    page_bytes = 32 * 2**20
    unit = page_bytes // PAGE
    every = 13  # of the copies that fail one by one: each takes a second here

    def __init__(self, pages: int) -> None:
        import torch
        from comfy_aimdo.model_vbar import ModelVBAR

        from residency.comfyui.device.cuda import Cuda

        bench = self
        self.pages, self.buffers = pages, []  # type: ignore[var-annotated]

        class Counted(Cuda):
            fails: Callable[[int], object] = bool
            copies = unmapped = 0

            def copy(self, target: Any, source: Any) -> None:
                self.copies += 1
                self.fails(self.copies)
                super().copy(target, source)

            def free_bytes(self) -> int:
                return bench.free_pages() * bench.page_bytes

        class Narrow(ModelVBAR):  # type: ignore[misc]
            def fault(self, address: int, size_bytes: int) -> Any:
                first, end = address - self.base_addr, address - self.base_addr + size_bytes
                residency = self.get_residency()
                pages = range(first // bench.page_bytes, -(-end // bench.page_bytes))
                missing = sum(not residency[page] & 1 for page in pages)
                return None if missing > bench.free_pages() else super().fault(address, size_bytes)

        self._made = Narrow
        self.cuda: Any = Counted(torch.device("cuda", torch.cuda.current_device()))
        self.on_device = self.cuda.bytes_at

    def buffer(self, size_bytes: int) -> Any:
        made = self._made(size_bytes + self.page_bytes, self.cuda.device.index)
        made.offset = size_bytes
        self.buffers.append(made)
        return made

    def pin(self, tensor: Any) -> Any:
        return tensor.pin_memory()

    def free_pages(self) -> int:
        return self.pages - sum(buffer.loaded_size() for buffer in self.buffers) // self.page_bytes


class Scene:
    """The pack's host and ComfyUI around one mover. `one_copy`: host memory holds `host_pages` of copies, else all of them."""

    def __init__(self, bench: Any, seed: int, keys: str, *, host_pages: int = 10_000, one_copy: bool = False) -> None:
        import comfy.model_management as model_management

        from residency.comfyui.device.mover import DeviceMover
        from residency.core.component import Component, Tier
        from residency.runtime import Runtime

        gc.collect()  # the scene before gives its pages back
        self.bench, self.draw, self.one_copy = bench, random.Random(seed), one_copy
        self.told: Told = []
        self.ticks = itertools.count(1)  # of any thread
        self.runtime = Runtime(clock=self.clock, at_safe_points=[Tier.DEVICE])
        self.spare_bytes = lambda: host_pages * bench.page_bytes - self.mover.pages.slots.total_bytes
        plan = lambda: self.runtime.manager.placement  # noqa: E731
        self.mover: Any = DeviceMover(self.tell, self.clock, bench.cuda, plan, lambda: self.spare_bytes())
        self.mover.streams.gate.open = False
        self.runtime.movers = {Tier.DEVICE: self.mover}
        self.patchers = {key: patcher(self.draw, bench, pins=not one_copy) for key in keys}
        self.parts = {key: Component(key, key, "MODEL", one.model_size()) for key, one in self.patchers.items()}
        entries = [SimpleNamespace(model=one) for one in self.patchers.values()]
        model_management.current_loaded_models[:] = entries
        for key, one in self.patchers.items():
            self.mover.models.learn([(self.parts[key], None)], [[one]], ["MODEL"])
        self.wrong = self.filled = self.taken_pages = 0
        self.passes_once: set[str] = set()
        self.interrupted = self.pressed = False

    def clock(self) -> float:
        return 1e-3 * next(self.ticks)

    def tell(self, event: Any) -> None:
        self.told.append(event)
        self.runtime.tell(event)

    def contents(self) -> Any:
        from residency.core.events import DeviceObserved

        room_bytes = (self.bench.free_pages() - HEADROOM_PAGES) * self.bench.page_bytes
        copies_bytes = 0 if self.one_copy else 10**15
        return DeviceObserved(self.clock(), self.mover.contents.held(), room_bytes, self.mover.contents.in_host(), copies_bytes, True)

    def prompt(self, order: str, on_node: Callable[[int], object] = bool) -> None:
        """One node a letter; `on_node(index)` before each."""
        from residency.core.component import Mode
        from residency.core.events import Outcome
        from residency.core.timeline import Timeline, Use, UseKind, Visit
        from residency.session import Limits, NodeBegins, NodeEnds, PromptBegins, PromptEnds, Sight

        visits = [Visit("p", str(index), "Node", 1.0, passes_once=key in self.passes_once) for index, key in enumerate(order)]
        uses = [Use(index, key, UseKind.COMPUTE, False) for index, key in enumerate(order)]
        limits = Limits(device_bytes=10**6 * self.bench.page_bytes)
        self.runtime.tell(PromptBegins(self.clock(), "p", Timeline.of(visits, uses), self.parts, Mode.BALANCED, limits=limits))
        for index, key in enumerate(order):
            on_node(index)
            self.mover.expect(0)
            free_pages = self.bench.free_pages()
            self.runtime.tell(NodeBegins(self.clock(), str(index), sight=Sight(device=self.contents())))
            self.runtime.safe_point()
            self.mover.carry_on(waits=False)
            self.taken_pages = max(self.taken_pages, min(HEADROOM_PAGES, free_pages) - self.bench.free_pages())
            if not self.interrupted:
                self.load_and_compute(key)
            self.interrupted = False
            self.runtime.tell(NodeEnds(self.clock()))
            self.runtime.safe_point()
        self.runtime.tell(PromptEnds(self.clock(), Outcome.SUCCESS))
        self.runtime.safe_point()

    def load_and_compute(self, key: str) -> None:
        one = self.patchers[key]

        def before_use(parts: list[Any]) -> None:
            for part in parts:
                self.mover.before_fault(*part._v)
            self.mover.streams.gate.wait(parts)

        self.mover.before_load([one], 0)
        filled, wrong = compute(one, before_use, lambda one: self.mover.after_load([one], 0), self.bench.on_device)
        self.filled, self.wrong = self.filled + filled, self.wrong + wrong

    def change(self, key: str) -> None:
        """A patch has changed the weights."""
        for part in self.patchers[key].model.parts:
            part.weight_bytes = random_bytes(len(part.weight_bytes))
            part._v_signature = None
            part.weight = part.weight_bytes
            if part._pins:
                part._pins = {"weights": {"pin": self.bench.pin(part.weight_bytes), "registered": True}}

    def reasons(self, kind: str) -> list[str]:
        return [event.reason for event in self.told if type(event).__name__ == kind]

    def lost_slots(self) -> int:
        slots, page = self.mover.pages.slots, self.bench.page_bytes
        used = sum(self.mover.pages.held_bytes(one) for one in self.patchers.values()) + len(slots._free) * page
        return (slots.total_bytes - used) // page

    def unanswered(self) -> int:
        """Instructions that nobody has answered; none where no prompt runs."""
        manager = self.runtime.manager
        manager.validate()
        told = len(manager.device.coming) + len(manager.placement.standing) + len(manager._device.own)
        return told + len(self.mover._answers.pending) + len(self.mover._answers.unanswered)

    def result(self, **more: Any) -> dict[str, Any]:
        """`taken`: pages of the headroom that the mover has taken; `unmapped`: copies that met pages which had been given back."""
        told = {"wrong": self.wrong, "unanswered": self.unanswered(), "lost": self.lost_slots()}
        return {**told, "taken": self.taken_pages, "unmapped": self.bench.cuda.unmapped, **more}


def patcher(draw: random.Random, bench: Any, *, pins: bool) -> Any:
    """A dynamic patcher whose pages are the bench's. `pins`: all its bytes are pinned in host memory."""
    import torch
    from comfy.model_patcher import ModelPatcher

    class Patcher(ModelPatcher):  # type: ignore[misc]
        def is_dynamic(self) -> bool:
            return True

        def _vbar_get(self, create: bool = False) -> Any:
            return self.buffer

        def model_size(self) -> int:
            return int(self.size_bytes)

        def loaded_size(self) -> int:
            return int(self.buffer.loaded_size())

        def partially_unload(self, device: Any, size_bytes: int, *args: Any) -> int:
            return int(self.buffer.free_memory(size_bytes))

    module, buffer, size_bytes = model(draw, bench.buffer, bench.unit)
    for part in module.parts:
        part.weight, part.bias = part.weight_bytes, None
        part._pins = {"weights": {"pin": bench.pin(part.weight_bytes), "registered": True}} if pins else {}
    made = Patcher(module, bench.cuda.device, torch.device("cpu"), size=size_bytes)
    made.buffer, made.size_bytes = buffer, size_bytes
    module.dynamic_pins = {bench.cuda.device: {"weights": (SimpleNamespace(size=size_bytes if pins else 0),)}}
    return made


# --- stories ---


def brings(bench_of: Any) -> dict[str, Any]:
    """What is pinned of a model crosses when its node starts, what its successor needs follows; nothing is read."""
    scene = Scene(bench_of(200), 1, "ab")
    scene.prompt("ab")
    first = scene.filled
    for one in scene.patchers.values():
        one.buffer.free_memory(one.buffer.max_size)
    scene.prompt("ab")
    return scene.result(read=scene.filled, first=first, done=sum(type(event).__name__ == "TransferDone" for event in scene.told))


def evicts(bench_of: Any) -> dict[str, Any]:
    """Room for a node is made of what is needed last, at its start, and that comes back from its pins."""
    scene = Scene(bench_of(40), 2, "abc")
    scene.prompt("abcabc")
    return scene.result(read=scene.filled, evicted=scene.reasons("Evicted"))


def exchanges(bench_of: Any) -> dict[str, Any]:
    """Both tiers together hold all: each model is read once."""
    scene = Scene(bench_of(40), 3, "abc", host_pages=40, one_copy=True)
    scene.prompt("abc")
    first = scene.filled
    scene.prompt("abcabc")
    refused = [event for event in scene.told if type(event).__name__ == "Evicted" and not event.freed_bytes]
    return scene.result(read=scene.filled - first, first=first, refused=len(refused))


def leaves_out(bench_of: Any) -> dict[str, Any]:
    """What fits nowhere is the end of the model that is passed once."""
    scene = Scene(bench_of(26), 7, "abc", host_pages=28, one_copy=True)
    scene.passes_once = {"a"}
    read: list[int] = []
    scene.prompt("abc" * 4, lambda index: read.append(scene.filled))
    read = [later - before for before, later in itertools.pairwise([*read, scene.filled])]
    return scene.result(read=[read[index : index + 3] for index in range(0, 12, 3)])


def is_interrupted(bench_of: Any) -> dict[str, Any]:
    """The user stops a node whose copies have been announced: what is computed next finds its own bytes all the same."""
    scene = Scene(bench_of(40), 4, "abc")
    scene.prompt("abc")

    def stop(index: int) -> None:
        scene.interrupted = index in (0, 2)

    scene.prompt("abcab", stop)
    scene.change("a")
    scene.prompt("abc")
    return scene.result()


def a_copy_fails(bench_of: Any, one_copy: bool) -> dict[str, Any]:
    """One copy fails, another one in each round: the instruction is answered with the reason, and every byte is right, also where ComfyUI
    has given every page back before the mover looks again."""
    failed, wrong, unanswered, lost, reasons = 0, 0, 0, 0, set()
    for number in range(1, 40, bench_of.every):
        scene = Scene(bench_of(40), 5, "abc", host_pages=40, one_copy=one_copy)
        scene.prompt("abc")
        fails_at = scene.bench.cuda.copies + number

        def fail(copies: int, fails_at: int = fails_at) -> None:
            if copies == fails_at:
                raise RuntimeError("the copy failed")

        def press(index: int, scene: Scene = scene, fails_at: int = fails_at) -> None:
            if scene.bench.cuda.copies >= fails_at and not scene.pressed:
                scene.pressed = True
                scene.mover.streams.wait_for_copies()
                for one in scene.patchers.values():
                    one.buffer.free_memory(one.buffer.max_size)

        scene.bench.cuda.fails = fail
        for _ in range(2):
            scene.prompt("cab", press)
        failed += scene.bench.cuda.copies >= fails_at
        reasons |= {reason for reason in scene.reasons("TransferStopped") if "failed" in reason}
        wrong, unanswered, lost = wrong + scene.wrong, unanswered + scene.unanswered(), lost + scene.lost_slots()
    left = len(range(1, 40, bench_of.every)) - failed
    return {"wrong": wrong, "unanswered": unanswered, "lost": lost, "succeeded": left, "reasons": sorted(reasons)}


def no_host_memory(bench_of: Any) -> dict[str, Any]:
    """The system gives no pinned memory: what leaves is read again."""
    scene = Scene(bench_of(40), 6, "abc", host_pages=40, one_copy=True)

    def none(size_bytes: int) -> Any:
        raise RuntimeError("out of pinned memory")

    scene.bench.cuda.pinned = none
    scene.prompt("abcabc")
    return scene.result(read=scene.filled)


def weights_change(bench_of: Any) -> dict[str, Any]:
    """A model whose weights have changed while it lay in host memory: its images are good no longer."""
    scene = Scene(bench_of(40), 8, "abc", host_pages=40, one_copy=True)
    scene.prompt("abc")
    scene.change("a")
    scene.prompt("abc")
    scene.change("c")
    scene.patchers["c"].buffer.free_memory(3 * scene.bench.page_bytes)
    scene.prompt("cba")
    return scene.result()


def closes(bench_of: Any, one_copy: bool) -> dict[str, Any]:
    """Another thread closes the mover while it copies: it waits, everything is answered, and ComfyUI goes on."""
    scene = Scene(bench_of(40), 9, "abc", host_pages=40, one_copy=one_copy)
    scene.prompt("abc")
    closer = threading.Thread(target=scene.mover.close, daemon=True)

    def close_now(copies: int) -> None:
        if not closer.ident:
            closer.start()

    scene.bench.cuda.fails = close_now
    scene.prompt("abcabc")
    if not closer.ident:
        closer.start()
    closer.join(HANGS_S)
    scene.prompt("abc")
    return closing(scene, closer)


def closing(scene: Scene, closer: threading.Thread) -> dict[str, Any]:
    told = {"wrong": scene.wrong, "unanswered": scene.unanswered(), "failures": sum(scene.mover.evidence.proofs.failures.values())}
    return {**told, "closed": not closer.is_alive()}


class Door:
    """A lock before which `knock` is called whenever the first thread comes for it."""

    def __init__(self, lock: Any, knock: Callable[[], object]) -> None:
        self.lock, self.knock, self.inside = lock, knock, 0

    def acquire(self, timeout: float = -1) -> bool:
        ours = threading.current_thread() is threading.main_thread()
        if ours and not self.inside:
            self.knock()
        taken: bool = self.lock.acquire(timeout=timeout)
        self.inside += ours and taken
        return taken

    def release(self) -> None:
        self.inside -= threading.current_thread() is threading.main_thread()
        self.lock.release()


def closes_before_each(bench_of: Any, one_copy: bool) -> dict[str, Any]:
    """Another thread closes the mover right before one of the executor's next works with it, a later one in each round."""
    found: list[dict[str, Any]] = []
    for number in itertools.count(1, bench_of.every):
        scene = Scene(bench_of(40), 9, "abc", host_pages=40, one_copy=one_copy)
        scene.prompt("abc")
        closer, knocks = threading.Thread(target=scene.mover.close, daemon=True), itertools.count(1)

        def knock(number: int = number, closer: threading.Thread = closer, knocks: Iterator[int] = knocks) -> None:
            if next(knocks) == number:
                closer.start()
                closer.join(HANGS_S)

        scene.mover._working.busy = Door(scene.mover._busy, knock)
        scene.prompt("abca")
        if not closer.ident:
            return {**{key: sum(one[key] for one in found) for key in found[0]}, "closed": all(one["closed"] for one in found)}
        scene.prompt("abc")
        found.append(closing(scene, closer))
    raise AssertionError


# --- lives ---


def hangs(bench_of: Any) -> dict[str, Any]:
    """The device finishes no copy while the mover closes: who comes for it on the executor's thread waits for no more than its patience,
    and when the device answers again all is as after any close."""
    from residency.comfyui.device import mover as movers
    from residency.core.component import Component, Tier
    from residency.core.instructions import Evict, Prefetch

    scene, answers, patience_s = Scene(bench_of(40), 5, "ab"), threading.Event(), movers.PATIENCE_S
    mover: Any = scene.mover
    ended: list[str] = []
    scene.prompt("ab")
    stream = mover.streams.both().into
    synchronize = stream.synchronize
    closing = threading.Event()

    def hang() -> None:
        closing.set()
        answers.wait()
        synchronize()

    stream.synchronize = hang
    movers.PATIENCE_S = 0.2
    gone = Component("z", "z", "MODEL", 1)
    comes: dict[str, Callable[[], object]] = {
        "settle": mover.settle,
        "before_unload": lambda: mover.before_unload(scene.patchers["a"], scene.patchers["a"].offload_device),
        "before_load": lambda: mover.before_load([scene.patchers["a"]]),
        "after_load": lambda: mover.after_load([scene.patchers["a"]], 0),
        "expect": lambda: mover.expect(0),
        "prefetch": lambda: mover.prefetch(Prefetch(gone, Tier.DEVICE, 1, "a test", 0, True)),
        "evict": lambda: mover.evict(Evict(gone, Tier.DEVICE, 1, "a test")),
    }
    try:
        mover.close(wait=False)
        closing.wait()
        for name, come in comes.items():
            try:
                come()
            except movers.DeviceHangsError:
                ended.append(name)
    finally:
        answers.set()
        movers.PATIENCE_S = patience_s
    mover.settle()
    stream.synchronize = synchronize
    scene.prompt("ab")
    return scene.result(ended=ended, came=[*comes])


def life(bench_of: Any, seed: int) -> dict[str, Any]:
    """Prompts, patches, pressure, interrupts and failures at random."""
    draw = random.Random(seed)
    one_copy = draw.random() < 0.5
    scene = Scene(bench_of(draw.randint(12, 60)), seed, "abc", host_pages=draw.randint(0, 50), one_copy=one_copy)
    scene.passes_once = set(draw.sample("abc", draw.randint(0, 1)))

    def fail(copies: int) -> None:
        if draw.random() < 0.005:
            raise RuntimeError("the copy failed")

    scene.bench.cuda.fails = fail

    def disturb(index: int) -> None:
        act, key = draw.random(), draw.choice("abc")
        scene.interrupted = act < 0.1
        if 0.1 <= act < 0.2:
            scene.change(key)
        elif 0.2 <= act < 0.3:
            scene.mover.streams.wait_for_copies()  # memory is given back only when the device stands still
            scene.patchers[key].buffer.free_memory(draw.randint(1, 8) * scene.bench.page_bytes)
        elif act < 0.35:
            scene.one_copy = not scene.one_copy

    for _ in range(4):
        scene.prompt("".join(draw.choice("abc") for _ in range(draw.randint(1, 8))), disturb)
    return scene.result()


def lives(bench_of: Any, trials: int) -> dict[str, int]:
    found = [life(bench_of, seed) for seed in range(trials)]
    return {key: sum(one[key] for one in found) for key in found[0]}


# --- the same with one rule of the mover broken ---


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def mutants(bench_of: Any) -> dict[str, bool]:
    """By rule: whether anything shows that it is broken."""
    from residency.comfyui.device import exchange_sides, page_exchange
    from residency.comfyui.device.answers import Answers
    from residency.comfyui.device.copy_streams import CopyStreams
    from residency.comfyui.device.headroom import Headroom
    from residency.comfyui.device.mover import DeviceMover

    leave, finish = exchange_sides.Leaving.announce, Answers.finish

    def is_caught(owner: Any, name: str, value: Any) -> bool:
        with replaced(owner, name, value):
            return bool(a_copy_fails(bench_of, True)["wrong"]) or any(any(life(bench_of, seed).values()) for seed in range(30))

    def forgets(self: Any, count: int, slots: Any, stream: Any) -> int:
        cuda, before = self._side.cuda, self._side.cuda.copy
        cuda.copy = lambda target, source: None
        try:
            return int(leave(self, count, slots, stream))
        finally:
            cuda.copy = before

    def loses(self: Any, pending: Any, reason: str) -> None:
        if not reason:
            finish(self, pending, reason)

    def is_caught_uncompared(owner: Any, name: str, value: Any) -> bool:
        """Pages are compared only the first times; here never."""
        with replaced(page_exchange.PageStore, "_compare", lambda *pages: None):
            return is_caught(owner, name, value)

    return {
        "evicts a page whose copy is under way": is_caught(CopyStreams, "wait_for_copies", lambda self: None),
        "forgets a write-back": is_caught_uncompared(exchange_sides.Leaving, "announce", forgets),
        "brings without room": is_caught(Headroom, "room_for_copies", lambda self, asked_bytes=0: 10**15),
        "loses a refusal": is_caught(Answers, "finish", loses),
        "keeps the images of an exchange that has failed": is_caught(page_exchange.PageStore, "give_up", lambda *images: None),
        "nothing is broken": is_caught(DeviceMover, "close", DeviceMover.close),
    }


def main() -> None:
    trials, real = int(sys.argv[3]), "cuda" in sys.argv[4:]
    enter(Path(sys.argv[1]), Path(sys.argv[2]), "" if real else "--cpu")
    if real:  # the modules of comfy-aimdo take its library as they find it when they are imported
        import comfy_aimdo.control as control

        assert control.init(), "comfy-aimdo does not start"
    import comfy.memory_management
    import comfy.model_management

    logging.disable(logging.CRITICAL)  # failures are what is tried here
    from residency.comfyui.device import headroom, prefetches

    bench_of: Any = CudaBench if real else LateBench
    if real:
        import torch

        torch.cuda.init()
        assert control.init_devices([torch.cuda.current_device()]), "comfy-aimdo finds no device"
        comfy.memory_management.aimdo_enabled = True
    else:
        small_pages()
    headroom.HEADROOM_BYTES = headroom.KNOWN_HEADROOM_BYTES = HEADROOM_PAGES * bench_of.page_bytes
    prefetches.RETRY_BYTES = 2 * bench_of.page_bytes
    gc.freeze()  # each of some hundred scenes collects what the one before has left: not also what the imports have made, 0.3 s each time
    answer = {
        "brings": brings(bench_of),
        "evicts": evicts(bench_of),
        "exchanges": exchanges(bench_of),
        "leaves out": leaves_out(bench_of),
        "is interrupted": is_interrupted(bench_of),
        "a copy fails": a_copy_fails(bench_of, False),
        "an exchange fails": a_copy_fails(bench_of, True),
        "no host memory": no_host_memory(bench_of),
        "weights change": weights_change(bench_of),
        "closes": closes(bench_of, False),
        "closes in an exchange": closes(bench_of, True),
        "closes before each": closes_before_each(bench_of, False),
        "closes before each exchange": closes_before_each(bench_of, True),
        "hangs": hangs(bench_of),
        "lives": lives(bench_of, trials),
    }
    if not real:
        answer["mutants"] = mutants(bench_of)
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
