"""What the pack costs when there is nothing to gain: milliseconds per node and prompt on graphs of trivial nodes, as ratios to stock.

    python benchmarks/overhead.py [--json]

Runs ComfyUI's own PromptExecutor in one process of ComfyUI's Python, hooks out and in alternately, and prints medians. Nodes take
microseconds, so every cost of ours shows; a real node takes seconds. Start-up is the time and memory of loading the pack.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
REPEATS = 9


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


def measure(root: str, scratch: str) -> dict[str, Any]:
    """In ComfyUI's process: every figure of the table."""
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
        started_s = time.perf_counter()
        executor.execute(prompt, f"p{seed}", {}, outputs)
        assert executor.success
        return time.perf_counter() - started_s

    rows = []
    for count in (100, 1000):
        for cached in (False, True):
            seconds: dict[bool, list[float]] = {True: [], False: []}
            arguments = {"cache_type": execution.CacheType.CLASSIC, "cache_args": {"ram": 0.0, "ram_inactive": 0.0, "lru": 0}}
            executors = {on: execution.PromptExecutor(Silent(), **arguments) for on in (False, True)}
            for repeat in range(REPEATS + 1):
                for on in (False, True):
                    if on:
                        host.install()
                    else:
                        host.uninstall()
                    spent_s = run(executors[on], count, 0 if cached else repeat)
                    if repeat:  # the first run fills the caches of both
                        seconds[on].append(spent_s)
            stock_s, ours_s = statistics.median(seconds[False]), statistics.median(seconds[True])
            rows.append(
                {
                    "nodes": count,
                    "run": "all cached" if cached else "all nodes run",
                    "stock_ms": stock_s * 1e3,
                    "ours_ms": ours_s * 1e3,
                    "added_ms_per_prompt": (ours_s - stock_s) * 1e3,
                    "added_us_per_node": (ours_s - stock_s) / count * 1e6,
                    "ratio": ours_s / stock_s,
                }
            )
    host.uninstall()
    import threading

    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("residency")]
    return {"startup": startup, "rows": rows, "threads_when_idle": threads}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--inside", nargs=2, metavar=("COMFYUI", "SCRATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print("ANSWER " + json.dumps(measure(*options.inside)))
        return 0
    sys.path.insert(0, str(REPO))
    from residency.installation.locate import HOW_TO_GET_ONE, find_comfyui

    comfyui = find_comfyui()
    if comfyui is None:
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(comfyui.python), __file__, "--inside", str(comfyui.path), scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    if not answers:
        print(done.stderr[-3000:], file=sys.stderr)
        return 1
    answer = json.loads(answers[-1].removeprefix("ANSWER ")) | {"comfyui": comfyui.version}
    if options.json:
        print(json.dumps(answer, indent=1))
        return 0
    startup = answer["startup"]
    print(f"ComfyUI {comfyui.version}; loading the pack: {startup['seconds'] * 1e3:.0f} ms, {startup['resident_mib']:.1f} MiB")
    print(f"{'nodes':>6}  {'run':<14} {'stock ms':>10} {'ours ms':>10} {'ratio':>7} {'us/node':>9}")
    for row in answer["rows"]:
        figures = f"{row['stock_ms']:>10.1f} {row['ours_ms']:>10.1f} {row['ratio']:>7.3f} {row['added_us_per_node']:>9.1f}"
        print(f"{row['nodes']:>6}  {row['run']:<14} {figures}")
    print(f"threads alive when idle: {answer['threads_when_idle'] or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
