"""What deciding costs: the manager alone, driven through prompts of 100 to 100,000 uses.

    python benchmarks/core.py [--json | --bytecodes]

CPU time of manager and driver, the least of several runs: a busy machine counts less. `plan_ms_1000`: the first plan of a 1,000-node
prompt, timeline included. `replan_ms_1000`: the dearest single event of its run, in runs of their own, since asking for CPU time takes a
system call. `plan_s_100000`: all events of 100,000 uses, timeline included. 40 components, half of which fit, on a drive that brings 20 GB
a second beside nodes of one second: every second use moves something. `fits` is the same with room for all. `exponent` is the growth of
the time between the two largest sizes: 1 is linear.

`graphs`: predicting a prompt of each shape of graph_shapes.py at 100 to 10,000 nodes: its order with ready nodes grouped by model, with
what each node computes, the timeline, its plan. "expansion" adds ten nodes at a time and predicts what is pending anew each time. Of it
`operations` are counted, the same on every machine; `s` is CPU time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import random
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bytecodes import counted, shown
from graph_shapes import SHAPES, Prompt, image, loads, node, outputs

from residency.core.component import Component, Mode, Tier
from residency.core.events import (
    BudgetChanged,
    Event,
    Evicted,
    NodeFinished,
    NodeStarted,
    Outcome,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    TransferDone,
    TransferStopped,
)
from residency.core.instructions import Cancel, Evict, Instruction, Prefetch
from residency.core.manager import Manager
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.graph import Allowance, Flow, Grouping, computes, likely, predict_order, predict_turns
from residency.workflow.core_nodes import core_traits

GB = 10**9
SIZES = (100, 1_000, 10_000, 100_000)
COMPONENTS = 40
RATE = 20.0 * GB
COMPUTE_S = 1.0
REPEATS = 5
LARGE_REPEATS = 3
TARGETS = {"plan_ms_1000": 5.0, "replan_ms_1000": 0.25, "plan_s_100000": 3.0}


def prompt(count: int, seed: int = 1) -> tuple[list[Visit], list[Use], dict[str, Component]]:
    """`count` nodes, each with one of the components in a random order."""
    random_ = random.Random(seed)
    parts = {
        f"c{number}": Component(f"c{number}", f"component {number}", "MODEL", random_.randint(1, 20) * GB) for number in range(COMPONENTS)
    }
    keys = list(parts)
    visits = [Visit("p", str(position), "Node", COMPUTE_S) for position in range(count)]
    uses = [Use(position, random_.choice(keys), UseKind.COMPUTE, True) for position in range(count)]
    return visits, uses, parts


class Drive:
    """A manager and one drive that reads what was announced in order; with `each_event` it counts the manager's seconds.

    Its own time counts, so it is leaner than the tests' VirtualHost, with which 1,000 uses took a tenth longer.
    """

    def __init__(self, limit_bytes: int, parts: dict[str, Component], *, each_event: bool = False) -> None:
        self.manager = Manager()
        self.now_s = 0.0
        self.event_s: list[float] = []
        self._handle = self._timed if each_event else self.manager.handle
        self._queue: deque[Prefetch] = deque()
        self._queued: set[str] = set()  # whose prefetch is in the queue: one at a time
        self._present: dict[str, int] = {}
        self._lands_s = 0.0
        self.give(BudgetChanged(0.0, Tier.HOST, limit_bytes))
        self.give(RatesMeasured(0.0, dict.fromkeys(parts, RATE)))

    def give(self, event: Event) -> None:
        """Hand the event over, and the answers to evictions and cancels; prefetches wait in the queue."""
        instructions = self._handle(event)
        if not instructions:
            return
        todo: deque[Event] = deque()
        while True:
            for instruction in instructions:
                key = instruction.component.key
                if isinstance(instruction, Prefetch):
                    self._queue.append(instruction)
                    self._queued.add(key)
                    if len(self._queue) == 1:
                        self._begin()
                elif isinstance(instruction, Evict):
                    self._present[key] = instruction.keep_bytes
                    todo.append(Evicted(self.now_s, key, instruction.tier, instruction.size_bytes, instruction.reason))
                elif isinstance(instruction, Cancel):
                    self._queue = deque(one for one in self._queue if one.component.key != key)
                    self._queued.discard(key)
                    todo.append(TransferStopped(self.now_s, key, Tier.HOST, 0, self._present.get(key, 0), 0.0, instruction.reason))
            if not todo:
                return
            instructions = self._handle(todo.popleft())

    def _timed(self, event: Event) -> list[Instruction]:
        begun_s = time.thread_time()
        instructions = self.manager.handle(event)
        self.event_s.append(time.thread_time() - begun_s)
        return instructions

    def node(self, position: int, key: str) -> None:
        """One node: it starts, waits for what is being read for it, and computes."""
        self.give(NodeStarted(self.now_s, position))
        while key in self._queued:
            self.now_s = max(self.now_s, self._lands_s)
            self._land()
        end_s = self.now_s + COMPUTE_S
        while self._queue and self._lands_s <= end_s:
            self.now_s = self._lands_s
            self._land()
        self.now_s = end_s
        self.give(NodeFinished(self.now_s, position))

    def _begin(self) -> None:
        first = self._queue[0]
        self._lands_s = self.now_s + (first.size_bytes - self._present.get(first.component.key, 0)) / RATE

    def _land(self) -> None:
        done = self._queue.popleft()
        key, size_bytes = done.component.key, done.size_bytes
        self._queued.discard(key)
        moved_bytes, self._present[key] = size_bytes - self._present.get(key, 0), size_bytes
        if self._queue:
            self._begin()
        self.give(TransferDone(self.now_s, key, Tier.HOST, moved_bytes, size_bytes, moved_bytes / RATE))


def once(count: int, share: float, *, each_event: bool = False) -> tuple[float, float, float]:
    """Seconds of all, of the timeline with its first plan, and of the dearest event behind it (0.0 without `each_event`)."""
    visits, uses, parts = prompt(count)
    drive = Drive(int(share * sum(part.size_bytes for part in parts.values())), parts, each_event=each_event)
    drive.event_s.clear()
    gc.collect()
    gc.disable()  # as timeit does: what a collection costs depends on what else the process holds
    begun_s = time.thread_time()
    timeline = Timeline(tuple(visits), tuple(uses))
    drive.give(PromptStarted(0.0, "p", timeline, parts, Mode.BALANCED))
    planned_s = time.thread_time() - begun_s
    behind = len(drive.event_s)
    for use in uses:
        drive.node(use.position, use.component)
    drive.give(PromptEnded(drive.now_s, "p", Outcome.SUCCESS))
    all_s = time.thread_time() - begun_s
    gc.enable()
    return all_s, planned_s, max(drive.event_s[behind:], default=0.0)


GRAPH_SIZES = (100, 1_000, 10_000)


def predicted(prompt: Prompt) -> tuple[int, float]:
    """Operations and seconds of everything that is foretold of one prompt before its first node."""
    files, allowance = loads(prompt), Allowance()
    parts = {key: Component(key, key, str(kind), GB) for found in files.values() for key, kind in found}
    begun_s = time.thread_time()
    wanted = likely(prompt.get, core_traits)
    used = computes(prompt, list(prompt), core_traits, files, wanted=wanted, allowance=allowance)
    grouping = Grouping(used, lambda key: parts[key].size_bytes, max(4, len(parts) // 2) * GB)
    order = predict_order(prompt, outputs(prompt), core_traits, wanted=wanted, grouping=grouping, allowance=allowance)
    visits = [Visit("p", node_id, prompt[node_id]["class_type"], COMPUTE_S) for node_id in order]
    uses = [Use(position, key, UseKind.COMPUTE, True) for position, node_id in enumerate(order) for key in used.get(node_id, ())]
    drive = Drive(max(4, len(parts) // 2) * GB, parts)
    drive.give(PromptStarted(0.0, "p", Timeline(tuple(visits), tuple(uses)), parts, Mode.BALANCED))
    return allowance.spent, time.thread_time() - begun_s


def expanded(count: int) -> tuple[int, float]:
    """The same for a loop: every ten nodes that have run add ten more, and what is pending is predicted anew."""
    prompt: Prompt = {}
    allowance = Allowance()
    begun_s = time.thread_time()
    flow = Flow(prompt, core_traits, {}, allowance=allowance)
    for first in range(0, count, 10):
        ids = [f"n{i}" for i in range(first, first + 10)]
        source = f"n{first - 1}" if first else None
        for node_id in ids:
            prompt[node_id] = image() if source is None else node("ImageInvert", image=source)
            source = node_id
            flow.computed_by(node_id)
        blocking = {one: [after] for one, after in itertools.pairwise(ids)}
        waits = {node_id: int(node_id != ids[0]) for node_id in ids}
        predict_turns(ids, waits, blocking, prompt.get, core_traits, allowance=allowance)
    return allowance.spent, time.thread_time() - begun_s


def graphs() -> dict[str, Any]:
    """Each shape's curve, and how its operations and seconds grow between the two largest sizes."""
    found = {}
    for name in (*SHAPES, "expansion"):
        curve = []
        for count in GRAPH_SIZES:
            runs = [expanded(count) if name == "expansion" else predicted(SHAPES[name](count)) for _ in range(3)]
            curve.append({"nodes": count, "operations": runs[0][0], "s": round(min(seconds for _, seconds in runs), 5)})
        before, last = curve[-2:]
        step = math.log(last["nodes"] / before["nodes"])
        exponents = {f"{key}_exponent": round(math.log(last[key] / before[key]) / step, 3) for key in ("operations", "s")}
        found[name] = {**exponents, "curve": curve}
    return found


def measure() -> dict[str, Any]:
    """The least of several runs."""
    curve = []
    for count in SIZES:
        repeats = REPEATS if count <= 1_000 else LARGE_REPEATS
        short = [once(count, 0.5) for _ in range(repeats)]
        events = [once(count, 0.5, each_event=True) for _ in range(repeats)]
        roomy = [once(count, 1.0) for _ in range(repeats)]
        point = {
            "uses": count,
            "all_s": min(run[0] for run in short),
            "fits_s": min(run[0] for run in roomy),
            "plan_ms": 1e3 * min(run[1] for run in short),
            "replan_ms": 1e3 * min(run[2] for run in events),
        }
        curve.append({key: round(value, 5) for key, value in point.items()})
    by_uses = {point["uses"]: point for point in curve}
    last, before = curve[-1], curve[-2]
    return {
        "plan_ms_1000": by_uses[1_000]["plan_ms"],
        "replan_ms_1000": by_uses[1_000]["replan_ms"],
        "plan_s_100000": by_uses[100_000]["all_s"],
        "exponent": round(math.log(last["all_s"] / before["all_s"]) / math.log(last["uses"] / before["uses"]), 3),
        "targets": TARGETS,
        "curve": curve,
        "graphs": graphs(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--bytecodes", action="store_true", help="count what 2,000 uses take where half fits, by file, and measure no time")
    options = parser.parse_args()
    if options.bytecodes:
        print(shown(counted(lambda: once(2_000, 0.5)), 2_000, "use"))
        return
    result = measure()
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for key in ("plan_ms_1000", "replan_ms_1000", "plan_s_100000", "exponent"):
        print(f"{key:<16} {result[key]:>8}  target {TARGETS.get(key, '-')}")
    for point in result["curve"]:
        print("  ".join(f"{key} {value}" for key, value in point.items()))
    for name, told in result["graphs"].items():
        last = told["curve"][-1]
        grows = f"operations^{told['operations_exponent']}  time^{told['s_exponent']}"
        print(f"{name:<22} {grows}  {last['nodes']} nodes: {last['operations']} operations, {last['s']} s")


if __name__ == "__main__":
    main()
