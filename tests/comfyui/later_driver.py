"""Runs inside ComfyUI's own Python: what later versions do with models, at the seams of this one, each with the pack's guard and without.

The device is late_device's plain memory. Without its guard each story must show the damage that the guard is for.

<ComfyUI>/.venv/bin/python tests/comfyui/later_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import contextlib
import json
import logging
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from inside import enter
from late_device import PAGE, Buffer, compute, small_pages
from mover_driver import HEADROOM_PAGES, LateBench, Scene, replaced

Lines = list[str]


class Kept(logging.Handler):
    """The lines that the pack has logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def take(self, words: str) -> Lines:
        found = [line for line in self.lines if words in line]
        self.lines.clear()
        return found


KEPT = Kept()


def unguarded(guarded: bool, owner: Any, name: str, value: Any) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if guarded else replaced(owner, name, value)


def bench_of(pages: int) -> Any:
    return LateBench(pages)


def off(scene: Scene) -> dict[str, str]:
    return {name: why for name, on, why in scene.mover.states() if not on}


def free_all(scene: Scene) -> None:
    for one in scene.patchers.values():
        one.buffer.free_memory(one.buffer.max_size)


# --- graphs ---


def graph_hit(guarded: bool) -> dict[str, Any]:
    """A block that is replayed asks for its pages as a whole, and for no module: its copies must have arrived all the same."""
    import comfy.model_management as model_management
    import comfy.model_prefetch as model_prefetch
    import comfy_aimdo.model_vbar as model_vbar
    import torch

    from residency.comfyui.seams import functions as seams
    from residency.comfyui.seams import wrappers as hooks

    scene = Scene(bench_of(200), 11, "a")
    scene.prompt("a")
    one = scene.patchers["a"]
    one.buffer.free_memory(one.buffer.max_size)
    parts, gate = list(one.model.parts), scene.mover.streams.gate
    first, last = parts[0]._v, parts[-1]._v
    block = one.model
    block._v_block = (one.buffer, first[1], last[1] + last[2] - first[1])
    wrong = 0

    def replay() -> None:
        nonlocal wrong
        for part in parts:
            start = part._v[1] - one.buffer.base_addr
            wrong += not torch.equal(one.buffer.memory[start : start + part._v[2]], part.weight_bytes)

    with replaced(model_vbar, "ModelVBAR", Buffer), replaced(model_management, "is_device_cuda", lambda device: True):
        fit = seams.FAULT.install(hooks.fault(gate.wait_for_range if guarded else lambda *asked: None))
        try:
            scene.mover._prefetches._copy(one, pending(scene, "a"), 10**9)
            announced = len(gate._arrives)
            block._comfy_graph = {"graph": SimpleNamespace(replay=replay), "signature": None}
            with gate.aside():
                block._comfy_graph["signature"] = model_vbar.vbar_fault(block._v_block)
            model_prefetch.GRAPH_CAPTURE_STREAMS[scene.bench.cuda.device] = object()
            model_prefetch.prefetch_queue_pop([None, None], scene.bench.cuda.device, block, core=bool, enable_graph=True)
        finally:
            seams.FAULT.remove()
            model_prefetch.GRAPH_CAPTURE_STREAMS.clear()
    return {"wrong": wrong, "announced": announced, "fits": fit.fits}


def pending(scene: Scene, key: str) -> Any:
    from residency.comfyui.device.answers import Pending

    return Pending(scene.parts[key], scene.parts[key].size_bytes, ahead=False)


def nothing_is_asked_for(guarded: bool) -> dict[str, Any]:
    """A ComfyUI that uses weights without a word to the gate: seen in the first pass, and from then on every copy is waited for."""
    from residency.comfyui.device.proofs import Proofs

    with unguarded(guarded, Proofs, "why_not", lambda *asked: ""):
        scene = Scene(bench_of(200), 12, "ab")
        scene.load_and_compute = lambda key: silently(scene, key)  # type: ignore[method-assign]
        for key in "ab":  # from the file
            silently(scene, key)
            scene.mover.expect(0)
        read = scene.filled
        free_all(scene)
        scene.prompt("abab")
        return {"wrong": scene.wrong, "read": scene.filled - read, "why": off(scene), "lines": KEPT.take("without passing the gate")}


def silently(scene: Scene, key: str) -> None:
    one = scene.patchers[key]
    scene.mover.before_load([one], 0)
    filled, wrong = compute(one, bool, lambda one: scene.mover.after_load([one], 0), None)
    scene.filled, scene.wrong = scene.filled + filled, scene.wrong + wrong


def recorded(guarded: bool) -> dict[str, Any]:
    """A block is recorded, and replayed where its weights were: of such a model nothing is moved."""
    import torch

    from residency.comfyui.device.kinds import Blocks
    from residency.core.component import Component, Tier
    from residency.core.instructions import Evict

    with unguarded(guarded, Blocks, "is_recorded", lambda self, patcher: False):
        scene = Scene(bench_of(200), 13, "a")
        one, component = scene.patchers["a"], scene.parts["a"]
        one.model._v_block = (one.buffer, one.buffer.base_addr, one.buffer.max_size)
        scene.prompt("a")
        assert isinstance(component, Component)
        one.model._comfy_graph = object()
        scene.mover.evict(Evict(component, Tier.DEVICE, component.size_bytes, "room is wanted"))
        wrong = 0
        for part in one.model.parts:
            start = part._v[1] - one.buffer.base_addr
            wrong += not torch.equal(one.buffer.memory[start : start + part._v[2]], part.weight_bytes)
        return {"wrong": wrong, "reasons": scene.reasons("Evicted")}


def recorded_in_an_exchange(guarded: bool) -> dict[str, Any]:
    """A model is recorded, and another one wants its pages: it gives none, and is brought none."""
    from residency.comfyui.device.kinds import Blocks

    with unguarded(guarded, Blocks, "is_recorded", lambda self, patcher: False):
        scene = Scene(bench_of(40), 3, "abc", host_pages=40, one_copy=True)
        scene.prompt("abc")
        one = scene.patchers["c"]
        first = one.model.parts[0]
        one.model._v_block = (one.buffer, one.buffer.base_addr, one.buffer.max_size)
        one.model._comfy_graph = object()
        before, told = one.buffer.get_residency(), len(scene.told)
        scene.prompt("a")
        taken = sum(then & ~now & 1 for then, now in zip(before, one.buffer.get_residency(), strict=True))
        one.buffer.free_memory(first._v[2])
        scene.prompt("c")
        reasons = {event.reason for event in scene.told[told:] if type(event).__name__ == "TransferStopped"}
        return {"wrong": scene.wrong, "taken": taken, "reasons": sorted(reasons)}


def allocations_are_recorded(guarded: bool) -> dict[str, Any]:
    """The allocations of a pass are recorded, and one that was not there when they were ends the process: the pack's own work in the
    middle of a pass is done in the official pause."""
    import comfy.model_prefetch as model_prefetch

    from residency.comfyui.device.cuda import Cuda
    from residency.comfyui.device.mover import DeviceMover

    scene = Scene(bench_of(40), 3, "abc", host_pages=40, one_copy=True)
    cuda, load_and_compute = scene.bench.cuda, scene.load_and_compute
    after_load, copy = scene.mover.after_load, cuda.copy
    state = {"recording": False, "paused": False, "in a pass": 0, "recorded": 0}

    def begins(patchers: Any, size_bytes: int) -> None:
        after_load(patchers, size_bytes)
        state["recording"] = True

    def computing(key: str) -> None:
        load_and_compute(key)
        state["recording"] = False

    def copying(target: Any, source: Any) -> None:
        state["in a pass"] += state["recording"]
        state["recorded"] += state["recording"] and not state["paused"]
        copy(target, source)

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        before, state["paused"] = state["paused"], True
        try:
            yield
        finally:
            state["paused"] = before

    cuda.copy = copying
    cuda.outside_graphs = (lambda: Cuda.outside_graphs(cuda)) if guarded else contextlib.nullcontext
    scene.load_and_compute = computing  # type: ignore[method-assign]
    model_prefetch.pause_malloc_graph = pause
    try:
        with replaced(DeviceMover, "after_load", lambda self, patchers, size_bytes: begins(patchers, size_bytes)):
            for _ in range(3):
                scene.prompt("abc")
    finally:
        del model_prefetch.pause_malloc_graph
    return {"wrong": scene.wrong, "in_a_pass": state["in a pass"], "recorded": state["recorded"]}


def compiler_is_switched(guarded: bool) -> dict[str, Any]:
    """With the compiler weights pass the gate, with --disable-comfy-compiler they do not: what was seen with one setting does not count for
    the other."""
    import comfy.model_management as model_management

    from residency.comfyui.device.proofs import Proofs

    args = model_management.args
    args.disable_comfy_compiler = False
    try:
        with unguarded(guarded, Proofs, "settle", lambda *asked: None), unguarded(guarded, Proofs, "why_not", first_proof_counts):
            scene = Scene(bench_of(200), 24, "ab")
            scene.mover.settle_proofs()
            scene.prompt("abab")
            proved = not off(scene)
            args.disable_comfy_compiler = True
            scene.mover.settle_proofs()
            scene.load_and_compute = lambda key: silently(scene, key)  # type: ignore[method-assign]
            free_all(scene)
            scene.prompt("abab")
            return {"wrong": scene.wrong, "proved": proved}
    finally:
        del args.disable_comfy_compiler


def first_proof_counts(self: Any, feature: Any, kind: Any) -> str:
    """A ledger that keys on nothing."""
    return "" if self._proved else f"not yet seen with {kind}"


# --- storage ---


def fast_disk(guarded: bool) -> dict[str, Any]:
    """The pins of a streamed model are in a buffer of another name: they are found, and the policy is told."""
    from residency.comfyui.device import onload

    def listed(module: Any) -> Any:
        return module._pins.get("weights", {}).get("pin")

    with unguarded(guarded, onload, "pin_of", listed):
        scene = Scene(bench_of(200), 14, "a")
        one = scene.patchers["a"]
        pins = one.model.dynamic_pins[scene.bench.cuda.device]
        pins["weights-fast"] = (*pins.pop("weights"), [])
        pins["fast_disk"] = True
        for part in one.model.parts:
            part._pin_state = pins
            part._pins = {"weights-fast": part._pins["weights"]}
        scene.prompt("a")
        read = scene.filled
        free_all(scene)
        scene.prompt("a")
        held = scene.mover.contents.in_host()["a"]
        lines = KEPT.take("reads what does not fit")
        return {
            "wrong": scene.wrong,
            "read": scene.filled - read,
            "held": held >= one.model_size(),
            "why": off(scene),
            "lines": lines,
        }


def without_pins(guarded: bool) -> dict[str, Any]:
    """Nothing of a streamed model is pinned: nothing is brought, ComfyUI reads it, and the reason is there."""
    scene = Scene(bench_of(200), 15, "a", one_copy=True)
    one = scene.patchers["a"]
    one.model.dynamic_pins[scene.bench.cuda.device]["fast_disk"] = guarded
    for _ in range(2):
        scene.prompt("a")
        free_all(scene)
    return {
        "wrong": scene.wrong,
        "read": scene.filled,
        "why": off(scene),
        "unsaid": int(not off(scene)),
        "lines": KEPT.take("reads what does not fit"),
    }


def prefers_ram(guarded: bool) -> dict[str, Any]:
    """Models that are streamed, and whose bytes RAM can hold: they are pinned at their first use, and never read again. Where RAM does not
    last, where the user has asked for streaming, where ComfyUI pins nothing, and once the pack is off, it is as ComfyUI says."""
    import comfy.model_management as model_management

    from residency.comfyui.device.storage_policy import StoragePolicy

    with (
        replaced(model_management, "MAX_PINNED_MEMORY", 10**12),
        unguarded(guarded, StoragePolicy, "before_load", lambda *asked: None),
    ):
        scene = streamed_scene(20)
        scene.prompt("abab")
        first = scene.filled
        free_all(scene)
        scene.prompt("abab")
        told = {"wrong": scene.wrong, "first": first, "again": scene.filled - first, "lines": KEPT.take("RAM is preferred")}
        on = {name: why for name, is_on, why in scene.mover.states() if is_on}
        scene.one_copy = True
        scene.prompt("a")
        told |= {"streamed": policies(scene), "why": on.get("weights kept in host memory", "")}
        scene.one_copy = False
        scene.prompt("ab")
        kept = policies(scene)
        scene.mover.close()
        told |= {"kept": kept, "after": policies(scene)}
        asked = streamed_scene(21)
        with replaced(model_management.args, "fast_disk", True):
            asked.prompt("aa")
        idle = streamed_scene(22, pins=False)
        idle.prompt("aa")
        with replaced(model_management, "MAX_PINNED_MEMORY", 1):
            few = streamed_scene(23)
            few.prompt("aa")
        return {**told, "others": [policies(asked)["a"], policies(idle)["a"], policies(few)["a"]]}


def streamed_scene(seed: int, *, pins: bool = True) -> Scene:
    """ComfyUI takes the drive of all models for a fast one. `pins`: it pins what it reads where it does not stream."""
    scene = Scene(bench_of(200), seed, "ab")
    state_of = {key: one.model.dynamic_pins[scene.bench.cuda.device] for key, one in scene.patchers.items()}
    for key, state in state_of.items():
        state["weights"][0].size, state["fast_disk"] = 0, True
        for part in scene.patchers[key].model.parts:
            part._pin_state, part._pins = state, {}
    load_and_compute = scene.load_and_compute

    def pinning(key: str) -> None:
        load_and_compute(key)
        state = state_of[key]
        if pins and not state["fast_disk"]:
            for part in scene.patchers[key].model.parts:
                part._pins = {"weights": {"pin": part.weight_bytes.clone(), "registered": True}}
            state["weights"][0].size = scene.patchers[key].model_size()

    scene.load_and_compute = pinning  # type: ignore[method-assign]
    return scene


def policies(scene: Scene) -> dict[str, bool]:
    """Whether each model is streamed."""
    return {key: one.model.dynamic_pins[scene.bench.cuda.device]["fast_disk"] for key, one in scene.patchers.items()}


def shared_place(guarded: bool) -> dict[str, Any]:
    """Three modules have one place on the device, and each pins its own third of it."""
    from residency.comfyui.device import onload

    with unguarded(guarded, onload, "shares_its_place", lambda modules: set()):
        scene = Scene(bench_of(200), 16, "a")
        first, second, third, *_ = parts = list(scene.patchers["a"].model.parts)
        for part in (second, third):
            part._v, part.weight_bytes, part.weight = first._v, first.weight_bytes, first.weight
        for number, part in enumerate((first, second, third)):
            size_bytes = max(1, len(first.weight_bytes) // 3)
            part._pins["weights"]["pin"] = first.weight_bytes[number * size_bytes : (number + 1) * size_bytes].clone()
        scene.prompt("a")
        free_all(scene)
        scene.prompt("a")
        return {"wrong": scene.wrong, "parts": len(parts), "stopped": scene.reasons("TransferStopped")}


# --- errors ---


def aimdo_raises(guarded: bool, method: str, message: str) -> dict[str, Any]:
    """One of comfy-aimdo's functions raises whenever the pack calls it: that copy ends with the reason, three of them the feature."""
    from residency.comfyui.device.answers import Answers
    from residency.comfyui.device.proofs import Feature

    @contextlib.contextmanager
    def passes_on(self: Any, key: str, feature: Any, patcher: Any = None) -> Iterator[None]:
        yield

    with unguarded(guarded, Answers, "answering", passes_on):
        scene = Scene(bench_of(400), 17, "abcd")
        scene.prompt("abcd")
        real = getattr(Buffer, method)

        def fails(self: Any, *asked: Any) -> Any:
            if scene.mover.streams.gate.is_aside:
                raise RuntimeError(message)
            return real(self, *asked)

        raised, told = 0, len(scene.told)
        free_all(scene)
        with replaced(Buffer, method, fails):
            try:
                scene.prompt("abcd")
            except Exception:
                raised += 1
        reasons = scene.reasons("TransferStopped")[-1:] if len(scene.told) > told else []
        failures, why = scene.mover.evidence.proofs.failures[Feature.ONLOAD], off(scene)
        scene.mover.evidence.proofs.forgive()
        again = off(scene)
        free_all(scene)
        scene.prompt("abcd")
        result = {"wrong": scene.wrong, "raised": raised, "failures": failures, "reasons": reasons, "why": why, "again": again}
        against = sum(scene.runtime.failures.values())
        return {**result, "against": against, "escaped": raised + against, "lines": len(KEPT.take("is off: 3 failures"))}


def unpin_raises(guarded: bool) -> dict[str, Any]:
    """`unpin` raises where it was silent: that one copy ends with the reason, and three of them the feature."""
    return aimdo_raises(guarded, "unpin", "VBAR unpin failed")


def watermark_raises(guarded: bool) -> dict[str, Any]:
    """`set_watermark` raises where it was silent."""
    return aimdo_raises(guarded, "set_watermark", "VBAR set_watermark failed")


def fault_raises(guarded: bool) -> dict[str, Any]:
    """`fault` raises for another reason than that there is no room."""
    return aimdo_raises(guarded, "fault", "Fault failed: 2")


def leave_out_raises(guarded: bool) -> dict[str, Any]:
    """`set_watermark` raises when the end of a model is left out: the model is brought as ComfyUI likes."""
    from residency.comfyui.device.answers import Answers
    from residency.comfyui.device.page_exchange import PageStore

    @contextlib.contextmanager
    def passes_on(self: Any, key: str, feature: Any, patcher: Any = None) -> Iterator[None]:
        yield

    def leave_out(self: Any, patcher: Any) -> None:
        if self._side(patcher).images.left_out:
            raise RuntimeError("VBAR set_watermark failed")

    with unguarded(guarded, Answers, "answering", passes_on), replaced(PageStore, "leave_out", leave_out):
        scene = Scene(bench_of(26), 7, "abc", host_pages=28, one_copy=True)
        scene.passes_once = {"a"}
        raised = 0
        for _ in range(4):
            try:
                scene.prompt("abc")
            except Exception:
                raised += 1
        failures = sum(scene.mover.evidence.proofs.failures.values())
        return {"wrong": scene.wrong, "raised": raised, "failures": failures}


def unpin_does_nothing(guarded: bool) -> dict[str, Any]:
    """`unpin` says nothing and does nothing: the pages of one copy stay pinned, and then nothing more is copied to models of that kind."""
    from residency.comfyui.device.proofs import Proofs

    pinned: dict[Any, set[int]] = {}
    fault, residency = Buffer.fault, Buffer.get_residency

    def keeps(self: Any, address: int, size_bytes: int) -> Any:
        signature = fault(self, address, size_bytes)
        if signature is not None and scene.mover.streams.gate.is_aside:
            start = address - self.base_addr
            pinned.setdefault(id(self), set()).update(range(start // PAGE, -(-(start + size_bytes) // PAGE)))
        return signature

    def told(self: Any) -> list[int]:
        return [state | 2 * (page in pinned.get(id(self), ())) for page, state in enumerate(residency(self))]

    with (
        unguarded(guarded, Proofs, "disprove", lambda *asked: None),
        replaced(Buffer, "fault", keeps),
        replaced(Buffer, "get_residency", told),
    ):
        scene = Scene(bench_of(400), 25, "abcd")
        for _ in range(2):
            scene.prompt("abcd")
            free_all(scene)
    return {"wrong": scene.wrong, "models": len(pinned), "why": off(scene), "lines": len(KEPT.take("stay pinned"))}


def free_raises(guarded: bool) -> dict[str, Any]:
    """`free_memory` raises where it was silent: the eviction is refused with the reason."""
    from residency.core.component import Tier
    from residency.core.instructions import Evict

    scene = Scene(bench_of(200), 18, "a")
    scene.prompt("a")

    def free_memory(self: Any, size_bytes: int) -> int:
        raise RuntimeError("VBAR free_memory failed")

    raised = ""
    with replaced(Buffer, "free_memory", free_memory):
        try:
            act = scene.mover.evict if guarded else (lambda instruction: scene.patchers["a"].partially_unload(None, instruction.size_bytes))
            act(Evict(scene.parts["a"], Tier.DEVICE, 1, "room is wanted"))
        except RuntimeError as error:
            raised = str(error)
    scene.load_and_compute("a")
    return {"wrong": scene.wrong, "raised": raised, "failed": int(bool(raised)), "reasons": scene.reasons("Evicted")}


def write_back_differs(guarded: bool) -> dict[str, Any]:
    """Pages that are written back read otherwise: the first ones are compared, and nothing is exchanged any more."""
    from residency.comfyui.device import exchange_sides, page_exchange

    leave = exchange_sides.Leaving.announce

    def forgets(self: Any, count: int, slots: Any, stream: Any) -> int:
        cuda, before = self._side.cuda, self._side.cuda.copy
        cuda.copy = lambda target, source: None
        try:
            return int(leave(self, count, slots, stream))
        finally:
            cuda.copy = before

    with (
        unguarded(guarded, page_exchange.PageStore, "_compare", lambda *pages: None),
        replaced(exchange_sides.Leaving, "announce", forgets),
    ):
        scene = Scene(bench_of(40), 3, "abc", host_pages=40, one_copy=True)
        for _ in range(3):
            scene.prompt("abc")
        return {**scene.result(), "why": off(scene), "lines": len(KEPT.take("read otherwise"))}


# --- prompts ---


def unchanged_steps(guarded: bool) -> dict[str, Any]:
    """A node says again and again that it works, with the same value: that is one step."""
    import comfy_execution.progress as progress
    from comfy_execution.graph import DynamicPrompt

    from residency.comfyui.prompt.steps import Steps

    told: list[str] = []
    left: list[int | None] = []
    of_another: list[int | None] = []
    progress.reset_progress_state("p", DynamicPrompt({"1": {"class_type": "KSampler", "inputs": {}}}))
    steps = Steps(told.append, bool)
    steps.watch()
    registry = progress.get_progress_state()
    for value in (1, 1, 1, 2, 2, 3, 1, 1, 2):
        if not guarded:
            steps._reported = "", 0.0
        registry.update_progress("1", value, 4, None)
        left.append(steps.left("1"))
        of_another.append(steps.left("2"))
    steps.watch()
    left.append(steps.left("1"))
    steps.forget()
    return {"steps": len(told), "left": left, "of another": of_another}


def overridden(guarded: bool) -> dict[str, Any]:
    """A loop puts another node in the place of one: how many there are stays, what is loaded does not."""
    import folder_paths
    from comfy_execution.graph import DynamicPrompt, ExecutionList

    from residency.comfyui.prompt.live_graph import LiveGraph

    folder = Path(folder_paths.get_output_directory()) / "vae"
    folder.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("vae", str(folder))
    for name in "ab":
        tensor = {"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}
        header = json.dumps(tensor).encode()
        (folder / f"later_{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))

    def loader(name: str) -> dict[str, Any]:
        return {"class_type": "VAELoader", "inputs": {"vae_name": f"later_{name}.safetensors"}}

    def decode(node_id: str) -> dict[str, Any]:
        return {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": [node_id, 0]}}

    latent = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    dynprompt = DynamicPrompt({"1": latent, "2": loader("a"), "3": decode("2")})
    cache = SimpleNamespace(get_local=lambda node_id: None, get=lambda node_id: None)
    execution_list = ExecutionList(dynprompt, cache)
    execution_list.is_cached = lambda node_id: False
    execution_list.add_node("3")
    graph: Any = LiveGraph("p", dynprompt)
    with unguarded(guarded, LiveGraph, "_forget_nodes", lambda self: None):
        before = names(graph, graph.timeline(execution_list))
        dynprompt.ephemeral_prompt["2"] = loader("b")
        dynprompt.ephemeral_parents["2"] = "2x"
        once = names(graph, graph.timeline(execution_list))
        dynprompt.ephemeral_prompt["2"] = loader("a")
        again = names(graph, graph.timeline(execution_list))
    return {"before": before, "once": once, "again": again}


def names(graph: Any, timeline: Any) -> list[str]:
    return sorted({graph.components[key].name for key in timeline.components()})


def compiled(guarded: bool) -> dict[str, Any]:
    """The compiler holds activations in memory that torch does not know of: nothing is learned of a node, rather than what torch tells.
    With --disable-comfy-compiler it is learned as before."""
    import comfy.model_management as model_management
    import comfy.model_prefetch as model_prefetch

    from residency.comfyui.prompt import working_set

    args = model_management.args
    args.disable_comfy_compiler = False
    model_prefetch.malloc_graph_enabled = lambda device: not args.disable_comfy_compiler
    try:
        with unguarded(guarded, working_set, "allocates_beside_torch", lambda device: False):
            peaks, why = peaks_of_a_node(), off(Scene(bench_of(40), 19, "a"))
            args.disable_comfy_compiler = True
            return {
                "peaks": peaks,
                "learned": len(peaks),
                "why": why,
                "without": peaks_of_a_node(),
                "why_without": off(Scene(bench_of(40), 19, "a")),
            }
    finally:
        del model_prefetch.malloc_graph_enabled, args.disable_comfy_compiler


def peaks_of_a_node() -> dict[str, int]:
    """What is learned of node 1, for which torch tells 1 GB."""
    import comfy.model_management as model_management
    import torch

    from residency.comfyui.prompt.working_set import DevicePeaks

    with (
        replaced(model_management, "get_torch_device", lambda: torch.device("cuda", 0)),
        replaced(torch.cuda, "is_available", lambda: True),
        replaced(torch.cuda, "reset_peak_memory_stats", lambda device: None),
        replaced(torch.cuda, "max_memory_reserved", lambda device: 10**9),
    ):
        peaks = DevicePeaks()
        peaks.node_starts(0.0)
        model_management.current_loaded_models.clear()
        peaks.node_finishes("1", 5.0)
    return peaks.peaks


# What each story shows, to be filled in with its answer. With the guard and without it the two sentences differ.
SHOWS: dict[Callable[[bool], dict[str, Any]], str] = {
    graph_hit: "{wrong} of 12 weights are replayed before their copies have arrived",
    nothing_is_asked_for: "{wrong} weights are used before their copies have arrived",
    recorded: "{wrong} of 12 weights that are replayed are no longer where they were",
    recorded_in_an_exchange: "{taken} pages of a recorded model are given to another one",
    allocations_are_recorded: "{recorded} of {in_a_pass} copies in the middle of a pass are announced inside the recording",
    compiler_is_switched: "{wrong} weights are used before their copies have arrived",
    fast_disk: "{read} weights that are pinned are read from the file again",
    without_pins: "models of which nobody says why nothing is brought: {unsaid}",
    prefers_ram: "{again} of 24 weights are read from the drive again",
    shared_place: "{wrong} weights are computed with another one's bytes",
    unpin_raises: "{escaped} errors are not contained",
    watermark_raises: "{escaped} errors are not contained",
    fault_raises: "{escaped} errors are not contained",
    leave_out_raises: "{raised} prompts fail in the pack",
    unpin_does_nothing: "{models} of 4 models have pages that nobody can free",
    free_raises: "errors that reach the prompt: {failed}",
    write_back_differs: "{wrong} weights are computed with other bytes than theirs",
    unchanged_steps: "{steps} steps are counted of 5",
    overridden: "what is read ahead for a node that now loads later_b: {once[0]}",
    compiled: "working sets learned that are too small: {learned}",
}


def told(story: Callable[[bool], dict[str, Any]]) -> dict[str, Any]:
    """`of`: the behaviour, in words."""
    guarded, unguarded = story(True), story(False)
    shown = [SHOWS[story].format_map(answer) for answer in (guarded, unguarded)]
    return {"of": story.__doc__, "guarded": guarded, "unguarded": unguarded, "shown": shown}


def main() -> None:
    enter(Path(sys.argv[1]), Path(sys.argv[2]))
    import comfy.model_management  # noqa: F401

    from residency.comfyui.device import headroom, prefetches

    log = logging.getLogger("residency")
    log.addHandler(KEPT)
    log.setLevel(logging.INFO)
    log.propagate = False
    small_pages()
    headroom.HEADROOM_BYTES = headroom.KNOWN_HEADROOM_BYTES = HEADROOM_PAGES * LateBench.page_bytes
    prefetches.RETRY_BYTES = 2 * LateBench.page_bytes
    answer = {story.__name__: told(story) for story in SHOWS}
    print("ANSWER " + json.dumps(answer))


if __name__ == "__main__":
    main()
