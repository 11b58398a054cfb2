"""Runs inside ComfyUI's own Python: does things to the seams, one story after the other, and prints what it saw as one JSON line.

<ComfyUI>/.venv/bin/python tests/comfyui/seams_driver.py <ComfyUI> <scratch folder>
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sys
from pathlib import Path
from typing import Any

from inside import enter


def start(root: Path, scratch: Path) -> None:
    enter(root, scratch)
    import execution  # type: ignore[import-not-found]  # noqa: F401
    import server  # type: ignore[import-not-found]

    import nodes  # type: ignore[import-not-found]

    server.PromptServer(asyncio.new_event_loop())
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def functions() -> list[Any]:
    from residency.comfyui.seams import functions as seams

    found = []
    for seam in seams.ALL:
        owner, attribute = seam._resolve()
        found.append(getattr(owner, attribute))
    return found


def executor() -> Any:
    import execution

    class Silent:
        client_id = last_node_id = None

        def send_sync(self, *arguments: Any, **options: Any) -> None:
            """Nobody listens."""

    return execution.PromptExecutor(
        Silent(), cache_type=execution.CacheType.CLASSIC, cache_args={"ram": 0.0, "ram_inactive": 0.0, "lru": 0}
    )


def run_prompt(prompt: dict[str, Any] | None = None, outputs: tuple[str, ...] = ("3",), on: Any = None) -> bool:
    """On an executor of its own, or on one that may hold results of earlier prompts."""
    prompt = prompt or {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "2": {"class_type": "LatentFlip", "inputs": {"samples": ["1", 0], "flip_method": "x-axis: vertically"}},
        "3": {"class_type": "SaveLatent", "inputs": {"samples": ["2", 0], "filename_prefix": "x"}},
    }
    on = on or executor()
    on.execute(prompt, "p", {}, list(outputs))
    return bool(on.success)


def story_fit() -> dict[str, Any]:
    from residency.comfyui.seams import functions as seams

    return {"report": seams.report()}


def story_restored() -> dict[str, Any]:
    from residency.comfyui.host import ComfyHost

    before = functions()
    host = ComfyHost()
    host.install()
    during = functions()
    ran = run_prompt()
    host.uninstall()
    return {
        "changed": all(a is not b for a, b in zip(before, during, strict=True)),
        "restored": all(a is b for a, b in zip(before, functions(), strict=True)),
        "ran": ran,
        "traced": len(host.runtime.traces),
    }


def story_unfit() -> dict[str, Any]:
    """Another ComfyUI: one function takes other parameters."""
    import comfy.model_management  # type: ignore[import-not-found]

    from residency.comfyui.host import ComfyHost

    original = comfy.model_management.load_models_gpu
    comfy.model_management.load_models_gpu = lambda everything: original(everything)
    host = ComfyHost()
    host.install()
    return {"fits": [(fit.name, fit.fits, fit.reason) for fit in host.hooks.fits], "installed": host.installed, "ran": run_prompt()}


def story_unfit_essential() -> dict[str, Any]:
    import comfy_execution.graph as graph  # type: ignore[import-not-found]

    from residency.comfyui.host import ComfyHost

    original = graph.ExecutionList.complete_node_execution
    names = {"original": original}
    exec("def complete_node_execution(this, extra=None, original=original): return original(this)", vars(graph), names)  # noqa: S102
    graph.ExecutionList.complete_node_execution = names["complete_node_execution"]
    before = functions()
    host = ComfyHost()
    host.install()
    untouched = all(a is b for a, b in zip(before, functions(), strict=True))
    return {"installed": host.installed, "untouched": untouched, "reasons": [fit.reason for fit in host.hooks.fits], "ran": run_prompt()}


def story_chained() -> dict[str, Any]:
    """Another pack wraps our seams: removing ours must not take theirs out, and ours must wake up again below it."""
    from comfy_execution.graph import ExecutionList

    from residency.comfyui.host import ComfyHost

    host = ComfyHost()
    host.install()
    ours = ExecutionList.complete_node_execution
    calls: list[int] = []

    @functools.wraps(ours)
    def theirs(self: Any) -> Any:
        calls.append(1)
        return ours(self)

    ExecutionList.complete_node_execution = theirs
    run_prompt()
    with_both = (len(calls), len(host.runtime.traces))
    host.uninstall()
    run_prompt()
    without_ours = (len(calls), len(host.runtime.traces))
    kept = ExecutionList.complete_node_execution is theirs
    host.install()
    run_prompt()
    nodes = [len(trace.as_dict()["nodes"]) for trace in host.runtime.traces]
    return {"with_both": with_both, "without_ours": without_ours, "kept": kept, "again": (len(calls), nodes)}


def story_failing() -> dict[str, Any]:
    """Our own code raises at every node: the prompt must run, and the hooks must leave."""
    from residency.comfyui.host import ComfyHost

    host = ComfyHost()

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a bug of ours")

    host.execution.node_starts = broken  # type: ignore[method-assign]
    before = functions()
    host.install()
    ran = [run_prompt() for _ in range(4)]
    return {
        "ran": ran,
        "failures": host.guard.failures,
        "installed": host.installed,
        "restored": all(a is b for a, b in zip(before, functions(), strict=True)),
    }


def story_choosing() -> dict[str, Any]:
    """Our choice among two ready nodes raises, or names a node that is not ready: ComfyUI's own choice runs."""
    from comfy_execution.graph import ExecutionList

    from residency.comfyui.host import ComfyHost
    from residency.comfyui.seams import functions as seams
    from residency.comfyui.seams import wrappers

    latents = {name: {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}} for name in "ab"}
    saves = {f"save {name}": {"class_type": "SaveLatent", "inputs": {"samples": [name, 0], "filename_prefix": name}} for name in "ab"}
    ran: list[str] = []
    complete = ExecutionList.complete_node_execution

    @functools.wraps(complete)
    def completing(self: Any) -> Any:
        ran.append(self.staged_node_id)
        return complete(self)

    ExecutionList.complete_node_execution = completing

    def order() -> list[str]:
        ran.clear()
        run_prompt(latents | saves, tuple(saves))
        return list(ran)

    stock = order()
    host = ComfyHost()
    asked: list[int] = []

    def broken(execution_list: Any, node_list: list[str], own: str) -> str:
        asked.append(len(node_list))
        raise RuntimeError("a bug of ours")

    own = host.execution
    own.chooses, own.choose_node = own.runs, broken  # type: ignore[method-assign]
    host.install()
    raising = order()
    host.uninstall()
    seams.PICK.install(wrappers.pick(lambda: True, lambda *arguments: "nowhere"))
    answer = {"stock": stock, "raising": raising, "asked": asked, "failures": host.guard.failures, "nowhere": order()}
    seams.PICK.remove()
    return answer


ASKED_BY_THE_EXECUTOR = (
    "prompt_begins", "chooses", "choose_node", "node_starts", "_holds", "stalls.held", "teaches", "node_outputs", "node_completes",
    "prompt_ends",
)  # fmt: skip


def story_raising() -> dict[str, Any]:
    """Each method that the executor reaches raises, in turn, and the core at the stall of a node that was held: the prompt runs."""
    from concurrent.futures import Future

    from residency.comfyui.host import ComfyHost
    from residency.core.events import Stalled
    from residency.runtime import Hold

    latents = {name: {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}} for name in "ab"}
    saves = {f"save {name}": {"class_type": "SaveLatent", "inputs": {"samples": [name, 0], "filename_prefix": name}} for name in "ab"}
    over: Future[None] = Future()
    over.set_result(None)
    told: dict[str, Any] = {}

    def story(name: str) -> None:
        host, raised = ComfyHost(), []
        own, handle = host.execution, host.runtime.manager.handle
        starts = own.node_starts

        def broken(*arguments: Any) -> Any:
            raised.append(name)
            raise RuntimeError("a bug of ours")

        def held(*arguments: Any) -> list[Hold]:
            starts(*arguments)
            return [Hold(over, 1, int)]

        own.chooses, own.teaches = own.runs, (lambda node_id: own.runs())  # type: ignore[method-assign]
        own.node_starts = held  # type: ignore[method-assign]
        if name == "Stalled":
            host.runtime.manager.handle = lambda event: broken() if isinstance(event, Stalled) else handle(event)  # type: ignore[method-assign]
        else:
            part, _, method = name.rpartition(".")
            setattr(getattr(own, part) if part else own, method, broken)
        host.install()
        ran = run_prompt(latents | saves, tuple(saves))
        host.uninstall()
        told[name] = [ran, bool(raised), host.guard.failures == len(raised)]

    for name in (*ASKED_BY_THE_EXECUTOR, "Stalled"):
        story(name)
    return told


class NamesWeights:
    """Loads weights as far as its prompt says, and hands on nothing."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"vae_name": (["few.safetensors"],)}}

    def run(self, vae_name: str, **others: Any) -> tuple[()]:
        return ()


class EncodesWithWeights(NamesWeights):
    """Is no output of the prompt."""

    RETURN_TYPES, OUTPUT_NODE = ("CONDITIONING",), False

    def run(self, vae_name: str, **others: Any) -> Any:
        return (vae_name,)


def story_ahead() -> dict[str, Any]:
    """What the timeline runs on into: the same again, be it the first time or not, the queue as deep as is wished."""
    import folder_paths  # type: ignore[import-not-found]
    import torch
    from comfy.cli_args import args
    from safetensors.torch import save_file

    import nodes
    from residency.comfyui.host import ComfyHost
    from residency.session import PromptBegins

    queued: list[Any] = []
    host = ComfyHost(queue=lambda: queued)
    told: list[Any] = []

    def listen(fact: Any, instructions: Any) -> None:
        if isinstance(fact, PromptBegins):
            ids = [visit.prompt_id for visit in fact.timeline.visits]
            told.append([ids.count("p"), len(ids), fact.timeline.expected_from])

    host.runtime.recorder = listen
    host.install()
    folder = Path(args.user_directory)
    save_file({"weight": torch.zeros(16)}, folder / "few.safetensors")
    folder_paths.add_model_folder_path("vae", str(folder))
    nodes.NODE_CLASS_MAPPINGS["NamesWeights"] = NamesWeights
    run_prompt()
    weights = {"1": {"class_type": "NamesWeights", "inputs": {"vae_name": "few.safetensors"}}}
    run_prompt(weights, ("1",))
    run_prompt(weights, ("1",))
    again = {"1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}}
    again["2"] = {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "y"}}
    queued += [(name, again, ["2"]) for name in "abcd"]
    run_prompt()
    host.queue_depth = 1
    run_prompt()
    host.uninstall()
    return {"told": told}


def story_unchanged() -> dict[str, Any]:
    """The files of the repetition that is expected of each prompt: first all is new, then all but the first node is."""
    import folder_paths  # type: ignore[import-not-found]
    import torch
    from comfy.cli_args import args
    from safetensors.torch import save_file

    import nodes
    from residency.comfyui.host import ComfyHost
    from residency.session import PromptBegins

    host, told = ComfyHost(queue=list), []

    def listen(fact: Any, instructions: Any) -> None:
        if isinstance(fact, PromptBegins):
            expected = {use.component for use in fact.timeline.uses if use.position >= fact.timeline.expected_from}
            told.append(sorted(fact.components[key].name for key in expected))

    host.runtime.recorder = listen
    host.install()
    folder = Path(args.user_directory)
    for name in ("encoder", "one", "two"):
        save_file({"weight": torch.zeros(16)}, folder / f"{name}.safetensors")
    folder_paths.add_model_folder_path("vae", str(folder))
    nodes.NODE_CLASS_MAPPINGS |= {"NamesWeights": NamesWeights, "EncodesWithWeights": EncodesWithWeights}
    server = executor()
    for other in ("one", "two"):
        prompt = {"1": {"class_type": "EncodesWithWeights", "inputs": {"vae_name": "encoder.safetensors"}}}
        prompt["2"] = {"class_type": "NamesWeights", "inputs": {"vae_name": f"{other}.safetensors", "positive": ["1", 0]}}
        run_prompt(prompt, ("2",), server)
    host.uninstall()
    return {"told": told}


class Stream:
    """Of a device that is not here."""

    def __init__(self, device: Any, priority: int) -> None:
        self.device, self.as_context = device, None


def story_streams() -> dict[str, Any]:
    """ComfyUI's streams on a device: names of those in its list, and its number of them, as the pack comes and goes."""
    import comfy.model_management as model_management
    from comfy.cli_args import args

    from residency.comfyui.seams.functions import OffloadStreams

    def look(count: int | None) -> list[Any]:
        one.set(count)
        names.update((stream, f"{len(names)}") for stream in streams if stream not in names)
        return [model_management.NUM_STREAMS, "".join(names[stream] for stream in streams)]

    before = model_management.NUM_STREAMS, model_management.STREAMS
    streams = [Stream("d", 0), Stream("d", 0)]
    names: dict[Any, str] = {}
    told: dict[str, Any] = {}
    try:
        model_management.STREAMS = {"d": streams}
        one, model_management.NUM_STREAMS = OffloadStreams(), 2
        told["on, off, on, off"] = [look(count) for count in (4, 4, None, 4, None, None)]
        model_management.NUM_STREAMS = 8
        told["more of its own"] = look(4)
        model_management.NUM_STREAMS = 0
        told["none"] = look(4)
        model_management.NUM_STREAMS, args.async_offload = 2, 2
        told["chosen"] = look(4)
    finally:
        args.async_offload = None
        model_management.NUM_STREAMS, model_management.STREAMS = before
    return told


def story_layout() -> dict[str, Any]:
    """Numbers of a model's modules in the order of their places on the device, while a prompt runs under the pack and without one."""
    import comfy.model_patcher as model_patcher
    import comfy.ops
    import torch

    from residency.comfyui.device.spread import arranged
    from residency.comfyui.seams import functions as seams
    from residency.comfyui.seams import wrappers as hooks

    def places() -> list[int]:
        entries = sorted(patcher._load_list(for_dynamic=True, default_device=torch.device("cpu")), key=lambda entry: entry[:4])
        return [list(model).index(entry[-2]) for entry in entries]

    sizes = [4, 128, 256] * 8
    model = torch.nn.Sequential(*(comfy.ops.manual_cast.Linear(size, 256, bias=False) for size in sizes))
    patcher = model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    runs, told = [True], {"stock": places()}
    fit = seams.LAYOUT.install(hooks.layout(lambda: runs[0], arranged))
    told["spread"], told["legacy"] = (
        places(),
        [entry[0] for entry in patcher._load_list()] == [entry[0] for entry in patcher._load_list(False)],
    )
    runs[0] = False
    told["no prompt"] = places()
    runs[0] = True
    list(model)[5]._v = object()
    told["placed"] = places()
    del list(model)[5]._v
    seams.LAYOUT.remove()
    return told | {"fits": fit.fits, "removed": places()}


def tell(story: Any) -> Any:
    """One story; whatever it did to ComfyUI's functions is undone."""
    from residency.comfyui.seams import functions as seams

    before = [(*seam._resolve(), function) for seam, function in zip(seams.ALL, functions(), strict=True)]
    try:
        return story()
    finally:
        for seam in seams.ALL:
            seam.remove()
        for owner, attribute, function in before:
            setattr(owner, attribute, function)


if __name__ == "__main__":
    start(Path(sys.argv[1]), Path(sys.argv[2]))
    logging.disable(logging.CRITICAL)
    stories = {name.removeprefix("story_"): tell(story) for name, story in list(globals().items()) if name.startswith("story_")}
    print("ANSWER " + json.dumps(stories))
