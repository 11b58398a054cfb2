"""Runs inside ComfyUI's own Python: answers with what its scheduler does, and what residency.graph predicted of it at every step.

    <ComfyUI>/.venv/bin/python tests/comfyui/order_driver.py <ComfyUI> <folder for its files>

One JSON request per line on stdin, one JSON answer per line on stdout; the first line out is {"classes": [...]}. A request:
    {"prompt": {...}, "outputs": [...] or null (ComfyUI's own validation lists them), "execute": true or false, "keep": true or false}
With "execute" the real PromptExecutor runs the prompt, and its output cache lives on if "keep" is set; without it, the real ExecutionList
schedules the prompt and every node counts as done as soon as it is staged. "stand_ins": {class that this ComfyUI lacks: [types of its
outputs, whether it is an output node, names of its inputs]}, for the time of this request.
Answer: {"outputs", "cached", "stages": [[node, picked first in the prediction made just before, the whole prediction], ...],
"done": nodes in the order in which they completed, "predicted", "predicted_lazy": from the prompt alone, "error"}

A request {"prompt", "outputs", "models": models folder, "hosted": {"device_limit_bytes": bytes or null, "reorder": true or false,
"other_pick": true if ComfyUI's choice of a node is to be a function with other parameters, "operations": what predicting may take, null
for the usual} or null} runs the prompt anew, with the pack's host around the executor unless "hosted" is null. Answer: {"done",
"announced": the order that the host foretold when the prompt began, "asks": nodes that were to ask for lazy inputs, "plans": how often an
order was foretold, "working_sets": bytes by node of the last order, where any are expected, "traces": heads of the host's traces,
"results": digests by node of what the nodes made, "unfit": names of the seams that do not fit, "error", "failures": of the host}
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

from inside import enter


def start(root: Path, scratch: Path) -> None:
    enter(root, scratch)
    import folder_paths

    folder_paths.set_output_directory(str(scratch))
    folder_paths.set_temp_directory(str(scratch))


async def register(root: Path) -> None:
    import server

    import nodes

    server.PromptServer(asyncio.new_event_loop())  # takes messages and sends none
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=True)
    pack = root / "tests" / "execution" / "testing_nodes" / "testing-pack"
    if pack.is_dir():
        await nodes.load_custom_node(str(pack))


def traits_of(class_type: str) -> Any:
    import nodes
    from residency.graph import NodeTraits

    class_def = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    if class_def is None:
        return None
    inputs = class_def.INPUT_TYPES()
    lazy = {
        name
        for part in ("required", "optional", "hidden")
        for name, spec in inputs.get(part, {}).items()
        if isinstance(spec, tuple | list) and len(spec) > 1 and isinstance(spec[1], dict) and spec[1].get("lazy")
    }
    return NodeTraits(
        tuple("COMBO" if isinstance(kind, list) else str(kind) for kind in class_def.RETURN_TYPES),
        getattr(class_def, "OUTPUT_NODE", False) is True,
        inspect.iscoroutinefunction(getattr(class_def, class_def.FUNCTION)),
        frozenset(lazy),
    )


def digest(value: Any) -> str:
    """Of the tensors in what a node made; models and other objects count for nothing."""
    import torch

    found = hashlib.sha256()
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, torch.Tensor):
            found.update(each.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(each, dict):
            stack += [each[key] for key in sorted(each, key=str)]
        elif isinstance(each, list | tuple):
            stack += each
    return found.hexdigest()


def stand_in(outputs: list[str], is_output: bool, inputs: list[str]) -> type:
    """A class that is scheduled and never run."""
    kinds = {"required": {name: ("*", {}) for name in inputs}}
    body = {"INPUT_TYPES": classmethod(lambda _: kinds), "RETURN_TYPES": tuple(outputs), "FUNCTION": "run", "OUTPUT_NODE": is_output}
    return type("StandIn", (), {**body, "run": lambda self: None})


class Recorder:
    """Watches the executor's list of nodes from outside: every choice, and the prediction made just before it."""

    def __init__(self) -> None:
        from functools import cache, wraps

        from comfy_execution.graph import ExecutionList

        self.traits = cache(traits_of)
        self.stages: list[Any] = []
        self.done: list[str] = []
        self.cached: list[str] | None = None
        self.results: dict[str, str] = {}
        stage, complete = ExecutionList.stage_node_execution, ExecutionList.complete_node_execution
        update = ExecutionList.cache_update

        @wraps(stage)
        async def staging(execution_list: Any) -> Any:
            self.watch(execution_list)
            predicted = self.predict(execution_list)
            waited = not execution_list.is_empty() and not execution_list.get_ready_nodes()
            result = await stage(execution_list)
            if result[0] is not None:
                self.stages.append([result[0], waited, predicted])
            return result

        @wraps(complete)
        def completing(execution_list: Any) -> None:
            self.done.append(execution_list.staged_node_id)
            complete(execution_list)

        @wraps(update)
        def updating(execution_list: Any, node_id: str, value: Any) -> None:
            self.results[node_id] = digest(value.outputs)
            update(execution_list, node_id, value)

        ExecutionList.stage_node_execution, ExecutionList.complete_node_execution = staging, completing
        ExecutionList.cache_update = updating

    def watch(self, execution_list: Any) -> None:
        if self.cached is None:
            self.cached = [n for n in execution_list.dynprompt.get_original_prompt() if execution_list.is_cached(n)]

    def predict(self, execution_list: Any) -> list[str]:
        from residency.graph import predict_pending

        return predict_pending(
            execution_list.pendingNodes, execution_list.blockCount, execution_list.blocking, execution_list.dynprompt.get_node, self.traits
        )

    def reset(self) -> None:
        self.stages, self.done, self.cached, self.results = [], [], None, {}


class Driver:
    def __init__(self) -> None:
        import execution
        import server

        self.recorder = Recorder()
        self.executor = execution.PromptExecutor(
            server.PromptServer.instance, cache_type=execution.CacheType.CLASSIC, cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        )
        self.count = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        import execution

        from residency.graph import likely, predict_order

        prompt, recorder = request["prompt"], self.recorder
        recorder.reset()
        self.count += 1
        error = None
        outputs = request.get("outputs")
        if outputs is None:
            valid, problem, outputs, problems = asyncio.run(execution.validate_prompt(str(self.count), prompt, None))
            if not valid or problems:
                return {"error": f"{problem} {problems}"}
        wanted = likely(prompt.get, recorder.traits)
        if request.get("execute", True):
            if not request.get("keep"):
                self.executor.reset()
            self.executor.execute(json.loads(json.dumps(prompt)), str(self.count), {}, outputs)
            failures = [data for event, data in self.executor.status_messages if event == "execution_error"]
            error = failures[0]["exception_message"] if failures else None
        else:
            asyncio.run(self.schedule(prompt, outputs, wanted if request.get("lazy") else None))
        cached = recorder.cached or []
        return {
            "outputs": outputs,
            "cached": cached,
            "stages": recorder.stages,
            "done": recorder.done,
            "predicted": predict_order(prompt, outputs, recorder.traits, set(cached)),
            "predicted_lazy": predict_order(prompt, outputs, recorder.traits, set(cached), wanted),
            "error": error,
        }

    def hosted(self, request: dict[str, Any]) -> dict[str, Any]:
        import comfy_execution.graph as graph
        import folder_paths
        from comfy_execution.graph import ExecutionList

        from residency.comfyui.host import ComfyHost
        from residency.comfyui.prompt.live_graph import DEFAULT_BUDGET, Budget
        from residency.session import OrderChanges, PromptBegins

        for folder in Path(request["models"]).iterdir():
            folder_paths.add_model_folder_path(folder.name, str(folder))
        self.recorder.reset()
        self.count += 1
        announced: list[list[str]] = []
        wish, plans, asks = request["hosted"], 0, []
        working_sets: dict[str, int] = {}
        allowed = None if wish is None else wish["operations"]
        host = ComfyHost(budget=DEFAULT_BUDGET if allowed is None else Budget(allowed, 0))

        def listen(fact: Any, instructions: Any) -> None:
            nonlocal plans
            if isinstance(fact, PromptBegins):
                own = fact.timeline.visits[: fact.timeline.expected_from]  # behind them stands the prompt once more
                announced.append([visit.node_id for visit in own if visit.asks is None])
                asks.extend(visit.node_id for visit in own if visit.asks is not None)
            if isinstance(fact, PromptBegins | OrderChanges):
                plans += 1
                working_sets.clear()
                working_sets.update((one.node_id, one.working_set_bytes) for one in fact.timeline.visits if one.working_set_bytes)

        pick = ExecutionList.ux_friendly_pick_node
        if wish is not None:
            if wish["other_pick"]:
                # in ComfyUI's own module: a pack's function may name its parameters as it likes
                names = {"pick": pick}
                exec("def ux_friendly_pick_node(this, ready, pick=pick): return pick(this, ready)", vars(graph), names)  # noqa: S102
                ExecutionList.ux_friendly_pick_node = names["ux_friendly_pick_node"]
            host.runtime.recorder = listen
            host.execution.reorder = wish["reorder"]
            host.limits.device_bytes = wish["device_limit_bytes"]  # this machine's device may have no memory of its own
            host.install()
        self.executor.reset()
        try:
            self.executor.execute(request["prompt"], str(self.count), {}, request["outputs"])
        finally:
            if wish is not None:
                host.uninstall()
                ExecutionList.ux_friendly_pick_node = pick
        failures = [data for event, data in self.executor.status_messages if event == "execution_error"]
        return {
            "done": self.recorder.done,
            "announced": announced,
            "asks": asks,
            "plans": plans,
            "working_sets": working_sets,
            "traces": [trace.head() for trace in host.runtime.traces],
            "results": self.recorder.results,
            "unfit": [fit.name for fit in host.hooks.fits if not fit.fits],
            "error": failures[0]["exception_message"] if failures else None,
            "failures": host.guard.failures,
        }

    async def schedule(self, prompt: dict[str, Any], outputs: list[str], wanted: Any) -> None:
        """The executor's main loop without the nodes' own work."""
        from comfy_execution.graph import DynamicPrompt, ExecutionList

        class Done:
            def __init__(self) -> None:
                self.nodes: dict[str, bool] = {}

            def get_local(self, node_id: str) -> bool | None:
                return self.nodes.get(node_id)

        done, asked = Done(), set()
        execution_list = ExecutionList(DynamicPrompt(prompt), done)
        for node_id in outputs:
            execution_list.add_node(node_id)
        while not execution_list.is_empty():
            node_id, _, problem = await execution_list.stage_node_execution()
            if problem is not None:
                raise problem
            node = prompt[node_id]
            traits = self.recorder.traits(node["class_type"])
            if wanted is not None and traits.lazy and node_id not in asked:
                asked.add(node_id)
                names = [n for n in wanted(node_id, node) if n in traits.lazy and isinstance(node["inputs"].get(n), list)]
                names = [n for n in names if done.get_local(node["inputs"][n][0]) is None]
                for name in names:
                    execution_list.make_input_strong_link(node_id, name)
                if names:
                    execution_list.unstage_node_execution()
                    continue
            done.nodes[node_id] = True
            execution_list.complete_node_execution()


def main() -> None:
    root, scratch = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nodes print
    start(root, scratch)
    asyncio.run(register(root))
    import nodes

    driver = Driver()
    print(json.dumps({"classes": sorted(nodes.NODE_CLASS_MAPPINGS)}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        stand_ins = request.get("stand_ins", {})
        try:
            nodes.NODE_CLASS_MAPPINGS.update({name: stand_in(*told) for name, told in stand_ins.items()})
            reply = driver.hosted(request) if "hosted" in request else driver.answer(request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        for name in stand_ins:
            nodes.NODE_CLASS_MAPPINGS.pop(name, None)
        if stand_ins:
            driver.recorder.traits.cache_clear()
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
