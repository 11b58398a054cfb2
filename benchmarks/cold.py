"""A cold prompt with the pack and without, in one run on one server, with the schedule bound beside them.

    python benchmarks/cold.py [--expert-mib 1500] [--repeats 3] [--json]

Two experts, a text encoder and a VAE of random weights (kept in the cache folder of the demo), whose pages are dropped before each
prompt. The bound is the least time that any schedule could take on the same order of uses: the drive, measured in this run, never idles,
and no node starts before its files are read; what nodes take beside reading is the quickest run with every file in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from residency.demo import sides  # noqa: E402
from residency.installation.locate import HOW_TO_GET_ONE, cache_folder, find_comfyui  # noqa: E402
from residency.installation.server_process import Run, Server, serve  # noqa: E402
from residency.simulate.bound import Lane, bound_once_s  # noqa: E402
from residency.simulate.workload import STEADY, Step  # noqa: E402
from residency.transfers import measure_read_rate, pagecache  # noqa: E402
from residency.workflow.file import read_workflow  # noqa: E402

DRIVE_TRIES = 3
STEPS = 3
FREE_S = 1.5


def say(what: str, done: int, total: int) -> None:
    print(f"{what} {done >> 20} of {total >> 20} MiB" if total else what, file=sys.stderr, flush=True)


def forget(server: Server) -> None:
    """Have the next prompt run its loaders again."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(FREE_S)


def one(server: Server, prompt: dict[str, Any], mode: str, files: list[Path], *, cold: bool) -> Run:
    """One prompt with all its loaders running, its files out of the page cache or in it."""
    for _ in range(sides.COLD_TRIES):
        forget(server)
        if cold:
            pagecache.drop_files(files)
        run = server.run(prompt, {"residency": {"mode": mode}})
        if len(run.nodes) >= len(prompt):
            return run
    raise SystemExit("ComfyUI kept its results through /free: no cold run to measure")


def schedule_bound(prompt: dict[str, Any], warm: Run, sizes: dict[str, int], rate: float) -> float:
    """Seconds; what a loader names is read as a whole before it starts."""
    steps = []
    for node_id, start_s, end_s in warm.nodes:
        names = tuple(value for value in prompt[node_id]["inputs"].values() if isinstance(value, str) and value in sizes)
        steps.append(Step(node_id, prompt[node_id]["class_type"], end_s - start_s, names, STEADY))
    return bound_once_s(steps, sizes, [Lane(rate)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--expert-mib", type=int, default=1500, help="size of each of the two experts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--traces", type=Path, help="write the traces of the runs with the pack to this file")
    options = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        print(HOW_TO_GET_ONE, file=sys.stderr)
        return 2
    models = cache_folder() / f"cold-{options.expert_mib}"
    sides.make_models(comfyui, models, say, options.expert_mib)
    files = sorted(models.rglob("*.safetensors"))
    sizes = {path.name: path.stat().st_size for path in files}
    rate = max(measure_read_rate(str(max(files, key=lambda path: path.stat().st_size))) for _ in range(DRIVE_TRIES))
    workflow = read_workflow(sides.WORKFLOW).prompt

    runs: dict[str, list[Run]] = {"cached": [], "off": [], "auto": []}
    traces = []
    arguments = ["--cache-classic", *(["--cpu"] if sides.needs_cpu(comfyui) else [])]
    with serve(comfyui, models, arguments) as server:
        one(
            server, sides.prompt_of(workflow, 99, STEPS), "off", files, cold=False
        )  # the first prompt of a process pays for what it imports
        for repeat in range(options.repeats):
            for kind in ("cached", "off", "auto") if repeat % 2 == 0 else ("auto", "off", "cached"):
                say(f"{repeat + 1}, {kind}", 0, 0)
                mode = "auto" if kind == "auto" else "off"
                runs[kind].append(one(server, sides.prompt_of(workflow, repeat, STEPS), mode, files, cold=kind != "cached"))
                if kind == "auto":
                    traces.append(server.get_json(f"/residency/trace?prompt_id={runs[kind][-1].prompt_id}"))
    warm = min(runs["cached"], key=lambda run: run.seconds)
    bound_s = schedule_bound(workflow, warm, sizes, rate)
    stock_s, ours_s = (statistics.median(run.seconds for run in runs[mode]) for mode in ("off", "auto"))
    answer = {
        "comfyui": comfyui.version,
        "file_bytes": sum(sizes.values()),
        "drive_bytes_per_s": rate,
        "files_cached_s": warm.seconds,
        "stock_s": stock_s,
        "ours_s": ours_s,
        "bound_s": bound_s,
        "ratio": stock_s / ours_s,
        "over_bound": ours_s / bound_s,
        "identical": all(sides.pixels(a.images) == sides.pixels(b.images) for a, b in zip(runs["off"], runs["auto"], strict=True)),
        "all_stock_s": [run.seconds for run in runs["off"]],
        "all_ours_s": [run.seconds for run in runs["auto"]],
        "prefetched_bytes": [trace["summary"]["prefetched_bytes"] for trace in traces],
        "stall_s": [trace["summary"]["stall_s"] for trace in traces],
    }
    if options.traces:
        options.traces.write_text(json.dumps(traces), encoding="utf-8")
    if options.json:
        print(json.dumps(answer, indent=1))
    else:
        print(f"ComfyUI {comfyui.version}, {answer['file_bytes'] / 1e9:.2f} GB of files, drive {rate / 1e9:.2f} GB/s")
        print(f"files in the page cache  {warm.seconds:7.2f} s")
        print(f"cold, stock              {stock_s:7.2f} s   {[round(s, 2) for s in answer['all_stock_s']]}")
        print(f"cold, with the pack      {ours_s:7.2f} s   {[round(s, 2) for s in answer['all_ours_s']]}")
        print(f"schedule bound           {bound_s:7.2f} s")
        print(f"{answer['ratio']:.2f} times as fast, {answer['over_bound']:.2f} of the bound; images identical: {answer['identical']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
