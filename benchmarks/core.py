"""What deciding costs: the manager alone, driven through prompts of 100 to 100,000 uses, every transfer answered at once.

    python benchmarks/core.py [--json]

`plan_ms_1000`: PromptStarted of a 1,000-node prompt, timeline included. `replan_ms_1000`: the dearest single event of its run.
`plan_s_100000`: 100,000 uses from the first event to the last, timeline included. Half of the 40 components fit, so that every other visit
moves something; `fits` is the same with room for all. `exponent` is the growth of the time between the two largest sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.component import Component, Mode, Tier
from residency.events import (
    BudgetChanged,
    Cancel,
    Event,
    Evict,
    Evicted,
    NodeFinished,
    NodeStarted,
    Outcome,
    Prefetch,
    PromptEnded,
    PromptStarted,
    RatesMeasured,
    TransferDone,
    TransferStopped,
)
from residency.manager import Manager
from residency.timeline import Timeline, Use, UseKind, Visit

GB = 10**9
SIZES = (100, 1_000, 10_000, 100_000)
COMPONENTS = 40
REPEATS = 5
TARGETS = {"plan_ms_1000": 20.0, "replan_ms_1000": 1.0, "plan_s_100000": 3.0}


def prompt(count: int, seed: int = 1) -> tuple[list[Visit], list[Use], dict[str, Component]]:
    """`count` nodes, each with one of the components in a random order."""
    random_ = random.Random(seed)
    parts = {
        f"c{number}": Component(f"c{number}", f"component {number}", "MODEL", random_.randint(1, 20) * GB) for number in range(COMPONENTS)
    }
    keys = list(parts)
    visits = [Visit("p", str(position), "Node", 1.0) for position in range(count)]
    uses = [Use(position, random_.choice(keys), UseKind.COMPUTE, True) for position in range(count)]
    return visits, uses, parts


class Drive:
    """A manager whose transfers and evictions are done as soon as they are asked for; times every event."""

    def __init__(self, limit_bytes: int, parts: dict[str, Component]) -> None:
        self.manager = Manager()
        self.present: dict[str, int] = {}
        self.event_s: list[float] = []
        self.give(BudgetChanged(0.0, Tier.HOST, limit_bytes))
        self.give(RatesMeasured(0.0, dict.fromkeys(parts, 2.0 * GB)))

    def give(self, event: Event) -> None:
        """Hand the event over, and then the answers to what follows from it."""
        todo = deque([event])
        while todo:
            begun_s = time.perf_counter()
            instructions = self.manager.handle(todo.popleft())
            self.event_s.append(time.perf_counter() - begun_s)
            for instruction in instructions:
                key = instruction.component.key
                if isinstance(instruction, Prefetch):
                    moved = instruction.size_bytes - self.present.get(key, 0)
                    self.present[key] = instruction.size_bytes
                    todo.append(TransferDone(event.time_s, key, Tier.HOST, moved, instruction.size_bytes, 1.0))
                elif isinstance(instruction, Evict):
                    self.present[key] = instruction.keep_bytes
                    todo.append(Evicted(event.time_s, key, instruction.tier, instruction.size_bytes, instruction.reason))
                elif isinstance(instruction, Cancel):
                    todo.append(TransferStopped(event.time_s, key, Tier.HOST, 0, self.present.get(key, 0), 0.0, instruction.reason))


def once(count: int, share: float) -> tuple[float, float, float]:
    """Seconds of all, of the timeline with its first plan, and of the dearest event behind it."""
    visits, uses, parts = prompt(count)
    drive = Drive(int(share * sum(part.size_bytes for part in parts.values())), parts)
    drive.event_s.clear()
    gc.collect()
    begun_s = time.perf_counter()
    timeline = Timeline(tuple(visits), tuple(uses))
    timeline_s = time.perf_counter() - begun_s
    drive.give(PromptStarted(0.0, "p", timeline, parts, Mode.BALANCED))
    first_s = drive.event_s[0]
    behind = len(drive.event_s)
    for position in range(count):
        drive.give(NodeStarted(float(position), position))
        drive.give(NodeFinished(position + 1.0, position))
    drive.give(PromptEnded(float(count), "p", Outcome.SUCCESS))
    # the driver's own work is not the manager's
    return timeline_s + sum(drive.event_s), timeline_s + first_s, max(drive.event_s[behind:])


def measure() -> dict[str, Any]:
    """Medians of several runs; of the largest size one run."""
    curve = []
    for count in SIZES:
        repeats = REPEATS if count <= 1_000 else 1
        short = [once(count, 0.5) for _ in range(repeats)]
        roomy = [once(count, 1.0) for _ in range(repeats)]
        point = {
            "uses": count,
            "all_s": statistics.median(run[0] for run in short),
            "fits_s": statistics.median(run[0] for run in roomy),
            "plan_ms": 1e3 * statistics.median(run[1] for run in short),
            "replan_ms": 1e3 * statistics.median(run[2] for run in short),
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
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = measure()
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for key in ("plan_ms_1000", "replan_ms_1000", "plan_s_100000", "exponent"):
        print(f"{key:<16} {result[key]:>8}  target {TARGETS.get(key, '-')}")
    for point in result["curve"]:
        print("  ".join(f"{key} {value}" for key, value in point.items()))


if __name__ == "__main__":
    main()
