"""What the pack costs when there is nothing to gain: milliseconds per node and prompt on graphs of trivial nodes, as ratios to stock.

    python benchmarks/overhead.py [--json | --bytecodes]

Runs ComfyUI's own PromptExecutor in one process of ComfyUI's Python, hooks out and in alternately, and prints medians of the CPU time of
the thread that runs the nodes, and of the ratio of two runs that follow one another: a busy machine counts less. Nodes take
microseconds, so every cost of ours shows; a real node takes seconds. Start-up is the time and memory of loading the pack.

`template` is the official workflow with the most switches (24 of ComfySwitchNode among 193 nodes). Its models are not here: switches and
primitive nodes are ComfyUI's own, every other node is a stand-in of the same class name, with the same links, outputs and lazy inputs, that
hands on nothing; a stand-in for a sampler sleeps SAMPLER_S, which is far less than a real one takes. The target is a ratio within 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from bytecodes import REPO, counted, shown

REPEATS = {100: 31, 1000: 9}
TEMPLATE = "templates-1_click_multiple_character_angles-v1.0.json"
SAMPLER_S = 1.0
TEMPLATE_REPEATS = 5


def graph(count: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Chains of ten nodes behind one root, each saved: `count` nodes. A new `seed` makes every node run again."""
    prompt: dict[str, Any] = {"root": {"class_type": "EmptyLatentImage", "inputs": {"width": 16, "height": 16, "batch_size": 1 + seed % 4}}}
    outputs: list[str] = []
    while len(prompt) < count:
        source = "root"
        for _ in range(min(9, count - len(prompt) - 1)):
            node_id = f"n{len(prompt)}"
            prompt[node_id] = {"class_type": "LatentFlip", "inputs": {"samples": [source, 0], "flip_method": "x-axis: vertically"}}
            source = node_id
        node_id = f"o{len(prompt)}"
        prompt[node_id] = {"class_type": "PreviewAny", "inputs": {"source": [source, 0]}}
        outputs.append(node_id)
    return prompt, outputs


def stand_ins(prompt: dict[str, Any], types_of: Any) -> tuple[dict[str, type], list[str]]:
    """Classes that take any inputs and give as many outputs as the node's own do, by class name; and the prompt's output nodes."""
    import time

    import nodes

    made: dict[str, type] = {}
    outputs = []
    for node_id, node in prompt.items():
        name = node["class_type"]
        own = nodes.NODE_CLASS_MAPPINGS.get(name)
        kinds = tuple(own.RETURN_TYPES) if own is not None else types_of(node_id, name)
        is_output = bool(getattr(own, "OUTPUT_NODE", False)) if own is not None else not kinds
        if is_output:
            outputs.append(node_id)
        if name.startswith(("ComfySwitch", "Primitive")):
            continue
        seconds = SAMPLER_S if "Sampler" in name and "Select" not in name else 0.0

        def run(self: Any, seconds: float = seconds, kinds: tuple[str, ...] = kinds, **inputs: Any) -> tuple[Any, ...]:
            time.sleep(seconds)
            return (None,) * len(kinds)

        taken = own.INPUT_TYPES() if own is not None else {}

        def input_types(taken: Any = taken) -> Any:
            return {"required": {}} | {part: dict(inputs) for part, inputs in taken.items() if part != "hidden"}

        about = {"RETURN_TYPES": kinds, "FUNCTION": "run", "OUTPUT_NODE": is_output, "run": run, "INPUT_TYPES": staticmethod(input_types)}
        made[name] = type(f"StandIn{name}", (), about)
    return made, outputs


def measure(root: str, scratch: str, *, only_bytecodes: bool) -> dict[str, Any]:
    """In ComfyUI's process: every figure of the table, or what the pack adds in bytecodes."""
    import asyncio
    import logging
    import os
    import statistics
    import time

    os.chdir(root)
    sys.path.insert(0, root)
    sys.path.append(str(REPO))
    sys.argv = ["main.py", "--cpu", "--database-url", "sqlite:///:memory:", "--output-directory", scratch, "--user-directory", scratch]
    import comfy.options

    comfy.options.enable_args_parsing()
    import execution
    import psutil
    import server

    import nodes

    server.PromptServer(asyncio.new_event_loop())
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    logging.disable(logging.CRITICAL)

    process = psutil.Process()
    before_bytes, started_s = process.memory_info().rss, time.perf_counter()
    from residency.comfyui import lifecycle

    host = lifecycle.load()
    startup = {
        "seconds": time.perf_counter() - started_s,
        "resident_mib": (process.memory_info().rss - before_bytes) / 2**20,
    }

    class Silent:
        client_id = last_node_id = None

        def send_sync(self, *arguments: Any, **options: Any) -> None:
            """Nobody listens."""

    def run(executor: Any, count: int, seed: int) -> float:
        prompt, outputs = graph(count, seed)
        started_s = time.thread_time()
        executor.execute(prompt, f"p{seed}", {}, outputs)
        assert executor.success
        return time.thread_time() - started_s

    if only_bytecodes:
        return {"bytecodes": [added_bytecodes(host, Silent, run, cached=cached) for cached in (False, True)]}
    rows = []
    for count, repeats in REPEATS.items():
        for cached in (False, True):
            seconds: dict[bool, list[float]] = {True: [], False: []}
            arguments = {"cache_type": execution.CacheType.CLASSIC, "cache_args": {"ram": 0.0, "ram_inactive": 0.0, "lru": 0}}
            executors = {on: execution.PromptExecutor(Silent(), **arguments) for on in (False, True)}
            for repeat in range(repeats + 1):
                for on in (False, True):
                    if on:
                        host.install()
                    else:
                        host.uninstall()
                    spent_s = run(executors[on], count, 0 if cached else repeat)
                    if repeat:  # the first run fills the caches of both
                        seconds[on].append(spent_s)
            stock_s, ours_s = statistics.median(seconds[False]), statistics.median(seconds[True])
            ratio = statistics.median(ours / stock for stock, ours in zip(seconds[False], seconds[True], strict=True))
            rows.append(
                {
                    "nodes": count,
                    "run": "all cached" if cached else "all nodes run",
                    "stock_ms": stock_s * 1e3,
                    "ours_ms": ours_s * 1e3,
                    "added_ms_per_prompt": (ratio - 1) * stock_s * 1e3,
                    "added_us_per_node": (ratio - 1) * stock_s / count * 1e6,
                    "ratio": ratio,
                }
            )
    from residency.workflow.file import read_workflow

    found = next((path for folder in sys.path for path in Path(folder).glob(f"comfyui_workflow_templates*/**/{TEMPLATE}")), None)
    template: dict[str, Any] | None = None
    if found is not None:
        workflow = read_workflow(found)

        def types_of(node_id: str, name: str) -> tuple[str, ...]:
            known = workflow.traits(name)
            return workflow.output_types.get(node_id) or (known.outputs if known else ())

        made, outputs = stand_ins(workflow.prompt, types_of)
        nodes.NODE_CLASS_MAPPINGS.update(made)
        spent: dict[bool, list[float]] = {True: [], False: []}
        heads = []
        for _ in range(TEMPLATE_REPEATS):
            for on in (False, True):
                if on:
                    host.install()
                else:
                    host.uninstall()
                executor = execution.PromptExecutor(Silent(), **arguments)
                started_s = time.perf_counter()
                executor.execute(json.loads(json.dumps(workflow.prompt)), "template", {}, list(outputs))
                spent[on].append(time.perf_counter() - started_s)
                if not executor.success:
                    raise SystemExit(f"{TEMPLATE}: {executor.status_messages[-1]}")
                if on:
                    heads.append(host.runtime.traces[-1].head())
        stock_s, ours_s = statistics.median(spent[False]), statistics.median(spent[True])
        own_s = statistics.median(head["summary"]["own_s"] for head in heads)
        counts = {"nodes": heads[-1]["summary"]["nodes"], "replans": heads[-1]["summary"]["replans"]}
        template = {"stock_s": stock_s, "ours_s": ours_s, "ratio": ours_s / stock_s, "own_s": own_s, **counts}
    host.uninstall()
    import threading

    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("residency")]
    return {"startup": startup, "rows": rows, "template": template, "threads_when_idle": threads}


def added_bytecodes(host: Any, server: Any, run: Any, *, cached: bool, count: int = 100) -> str:
    """A prompt of so many nodes with the hooks in, less the same without."""
    import execution

    from residency.comfyui.device import host_contents
    from residency.comfyui.prompt import limits

    # looked at anew so many seconds later, which is more often in a run that is counted
    limits.BUDGET_REFRESH_S = host_contents.REFRESH_S = float("inf")
    found: dict[bool, Counter[str]] = {}
    for on in (False, True):
        if on:
            host.install()
        else:
            host.uninstall()
        arguments = {"cache_type": execution.CacheType.CLASSIC, "cache_args": {"ram": 0.0, "ram_inactive": 0.0, "lru": 0}}
        executor = execution.PromptExecutor(server(), **arguments)
        for seed in range(3):
            run(executor, count, 0 if cached else seed)
        found[on] = counted(partial(run, executor, count, 0 if cached else 3))
    found[True].subtract(found[False])
    return shown(found[True], count, "node, all cached" if cached else "node, all run")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--bytecodes", action="store_true", help="count what the pack adds to 100 nodes, by file, and measure no time")
    parser.add_argument("--inside", nargs=2, metavar=("COMFYUI", "SCRATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print("ANSWER " + json.dumps(measure(*options.inside, only_bytecodes=options.bytecodes)))
        return 0
    sys.path.insert(0, str(REPO))
    from residency.installation.locate import HOW_TO_GET_ONE, find_comfyui
    from residency.installation.script import answer

    comfyui = find_comfyui()
    if comfyui is None:
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        told = answer(comfyui, __file__, "--inside", comfyui.path, scratch, *["--bytecodes"] * options.bytecodes)
    told |= {"comfyui": comfyui.version}
    if options.bytecodes:
        print("\n".join(told["bytecodes"]))
        return 0
    if options.json:
        print(json.dumps(told, indent=1))
        return 0
    startup = told["startup"]
    print(f"ComfyUI {comfyui.version}; loading the pack: {startup['seconds'] * 1e3:.0f} ms, {startup['resident_mib']:.1f} MiB")
    print(f"{'nodes':>6}  {'run':<14} {'stock ms':>10} {'ours ms':>10} {'ratio':>7} {'us/node':>9}")
    for row in told["rows"]:
        figures = f"{row['stock_ms']:>10.1f} {row['ours_ms']:>10.1f} {row['ratio']:>7.3f} {row['added_us_per_node']:>9.1f}"
        print(f"{row['nodes']:>6}  {row['run']:<14} {figures}")
    if told["template"] is None:
        print(f"template: {TEMPLATE} is not in this ComfyUI's Python")
    else:
        print("template: " + "  ".join(f"{key} {round(value, 4)}" for key, value in told["template"].items()))
    print(f"threads alive when idle: {told['threads_when_idle'] or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
