"""How often is the predicted order of nodes ComfyUI's own?

    python benchmarks/order.py --templates <folder of workflow files> [--most-used 30] [--graphs 300] [--json]

Templates (the pip packages comfyui-workflow-templates-json and -core hold them; their site-packages folder will do) are converted and
scheduled by ComfyUI's real ExecutionList, which takes each node as done once it is chosen; random graphs of cheap nodes are run by its real
PromptExecutor. A class that a template has and this ComfyUI lacks has a stand-in of what the file tells of it. Every choice is compared
with the prediction made from the live list just before it, and the whole order with the one from the prompt alone. Of each template's
prediction the operations are counted and the time is taken; the five slowest are told. With --most-used only those local templates that
the package's index.json counts the most uses of.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "comfyui")]

from order_graphs import RealOrder, change_one, random_prompt  # noqa: E402

from residency.graph import Allowance, NodeTraits, likely, predict_order, predict_pending  # noqa: E402
from residency.installation.locate import HOW_TO_GET_ONE, find_comfyui  # noqa: E402
from residency.workflow.file import Workflow, WorkflowError, read_workflow  # noqa: E402


def _followed(answer: dict[str, Any]) -> bool:
    return all(not predicted or waited or node == predicted[0] for node, waited, predicted in answer["stages"])


def most_used(folder: Path, count: int) -> list[Path]:
    """The local templates with the most uses, by the index.json beside them. Raises SystemExit where there is none."""
    index = next(folder.rglob("index.json"), None)
    if index is None:
        raise SystemExit(f"{folder} holds no index.json, which counts the uses of templates")
    told = [one for group in json.loads(index.read_text(encoding="utf-8")) for one in group["templates"] if one.get("openSource")]
    told.sort(key=lambda one: -int(one.get("usage") or 0))
    return [index.with_name(f"{one['name']}.json") for one in told[:count]]


def templates(real: RealOrder, files: list[Path]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(
        (
            "workflows",
            "converted",
            "without_nodes_to_run",
            "all_classes_known",
            "with_stand_ins",
            "order_equal",
            "order_equal_lazy",
            "every_choice",
            "nodes",
        ),
        0,
    )
    found["unknown_classes"], found["not_equal"] = {}, []
    times: list[dict[str, Any]] = []
    found["workflows"] = len(files)
    for path in files:
        try:
            workflow = read_workflow(path)
        except WorkflowError as error:
            found["not_equal"].append(str(error))
            continue
        found["converted"] += 1
        if not workflow.outputs:
            found["without_nodes_to_run"] += 1
            continue
        times.append(_timed(path.name, workflow))
        unknown = {node["class_type"] for node in workflow.prompt.values()} - real.classes
        for name in sorted(unknown):
            found["unknown_classes"][name] = found["unknown_classes"].get(name, 0) + 1
        stand_ins = {name: _stand_in(workflow, name) for name in unknown}
        if unknown and not all(stand_ins.values()):
            continue
        found["all_classes_known"] += not unknown
        found["with_stand_ins"] += bool(unknown)
        plain = real.ask(workflow.prompt, workflow.outputs, execute=False, stand_ins=stand_ins)
        lazy = real.ask(workflow.prompt, workflow.outputs, execute=False, lazy=True, stand_ins=stand_ins)
        if plain["error"] or lazy["error"]:
            found["not_equal"].append(f"{path.name}: {plain['error'] or lazy['error']}")
            continue
        found["nodes"] += len(lazy["done"])
        found["order_equal"] += plain["done"] == predict_order(workflow.prompt, workflow.outputs, workflow.traits) == plain["predicted"]
        found["order_equal_lazy"] += lazy["done"] == lazy["predicted_lazy"]
        found["every_choice"] += _followed(plain) and _followed(lazy)
        if plain["done"] != plain["predicted"] or lazy["done"] != lazy["predicted_lazy"]:
            found["not_equal"].append(path.name)
    found["most_operations_per_node"] = round(max((one["operations"] / one["nodes"] for one in times), default=0), 1)
    found["most_switches"] = max(times, key=lambda one: int(one["switches"]), default=None)
    found["slowest"] = sorted(times, key=lambda one: -float(one["ms"]))[:5]
    return found


def _stand_in(workflow: Workflow, class_type: str) -> list[Any] | None:
    """What the file tells of a class that this ComfyUI lacks, for its scheduler; None where it does not say."""
    traits = workflow.traits(class_type)
    nodes = [node for node in workflow.prompt.values() if node["class_type"] == class_type]
    return None if traits is None else [list(traits.outputs), traits.is_output, sorted({name for node in nodes for name in node["inputs"]})]


def _timed(name: str, workflow: Workflow) -> dict[str, Any]:
    """One prediction from the prompt alone, the best of three."""
    wanted = likely(workflow.prompt.get, workflow.traits)
    best_s = math.inf
    for _ in range(3):
        allowance = Allowance()
        begun_s = time.perf_counter()
        predict_order(workflow.prompt, workflow.outputs, workflow.traits, wanted=wanted, allowance=allowance)
        best_s = min(best_s, time.perf_counter() - begun_s)
    switches = sum(node["class_type"] == "ComfySwitchNode" for node in workflow.prompt.values())
    told = {"template": name, "nodes": len(workflow.prompt), "switches": switches}
    return {**told, "operations": allowance.spent, "ms": round(1e3 * best_s, 3)}


def _is_workflow(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def graphs(real: RealOrder, count: int) -> dict[str, int]:
    """Each random prompt twice: fresh, and again with one value changed so that part of it is cached."""
    names = ("graphs", "runs", "equal", "every_choice", "choices", "lazy", "partly_cached")
    found = dict.fromkeys(names, 0)
    for seed in range(count):
        rng = random.Random(seed)
        lazy = seed % 2 == 1
        prompt = random_prompt(rng, rng.randrange(1, 60), lazy=lazy)
        found["graphs"] += 1
        found["lazy"] += lazy
        for again in (False, True):
            if again:
                change_one(prompt, rng)
            answer = real.ask(prompt, keep=again)
            if answer["error"]:
                raise SystemExit(f"seed {seed}: {answer['error']}")
            found["runs"] += 1
            found["choices"] += len(answer["stages"])
            found["every_choice"] += _followed(answer)
            found["partly_cached"] += bool(answer["cached"])
            found["equal"] += answer["done"] == answer["predicted_lazy"]
    return found


def speed() -> dict[str, float]:
    """Seconds for one prediction, the best of five."""
    found: dict[str, float] = {}
    traits = {"Output": NodeTraits(is_output=True), "Node": NodeTraits(("LATENT",))}
    for size in (1_000, 10_000):
        rng = random.Random(size)
        ids = [str(number) for number in range(size)]
        prompt: dict[str, Any] = {}
        for number, node_id in enumerate(ids):
            low = max(0, number - 50)
            sources = rng.sample(ids[low:number], min(3, number - low))
            kind = "Output" if rng.random() < 0.1 else "Node"
            prompt[node_id] = {"class_type": kind, "inputs": {f"in{i}": [source, 0] for i, source in enumerate(sources)}}
        outputs = [node_id for node_id in ids if prompt[node_id]["class_type"] == "Output"]
        blocking: dict[str, dict[str, None]] = {node_id: {} for node_id in ids}
        count = dict.fromkeys(ids, 0)
        for node_id, node in prompt.items():
            for value in node["inputs"].values():
                blocking[value[0]][node_id] = None
                count[node_id] += 1
        best = {"prompt": 1e9, "pending": 1e9}
        for _ in range(5):
            start = time.perf_counter()
            predict_order(prompt, outputs, traits.get)
            best["prompt"] = min(best["prompt"], time.perf_counter() - start)
            start = time.perf_counter()
            predict_pending(ids, count, blocking, prompt.get, traits.get)
            best["pending"] = min(best["pending"], time.perf_counter() - start)
        found |= {f"{name}_{size}_nodes_s": round(seconds, 5) for name, seconds in best.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--templates", type=Path, help="a folder of workflow files")
    parser.add_argument("--most-used", type=int, metavar="N", help="of these only the N local ones with the most uses")
    parser.add_argument("--graphs", type=int, default=300, help="how many random graphs to run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    where = find_comfyui()
    if where is None:
        parser.error(HOW_TO_GET_ONE)
    result: dict[str, Any] = {"speed": speed()}
    with tempfile.TemporaryDirectory() as scratch, RealOrder(where.path, where.python, Path(scratch)) as real:
        result["random"] = graphs(real, options.graphs)
        if options.templates:
            all_of_them = [path for path in sorted(options.templates.rglob("*.json")) if _is_workflow(path)]
            files = most_used(options.templates, options.most_used) if options.most_used else all_of_them
            result["templates"] = {**templates(real, files), **({"most_used": [path.stem for path in files]} if options.most_used else {})}
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for part, numbers in result.items():
        print(part)
        for name, value in numbers.items():
            print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
