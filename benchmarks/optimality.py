"""How far the manager's schedule is from the true optimum, on random two-tier instances that are small enough to search.

    python benchmarks/optimality.py [--instances N] [--seed S] [--json]

Machine-independent: a virtual clock, whole units. An instance: 2-5 components, 4-10 uses, a host that does not hold them all.
`loss` says where the time went on instances that are more than 3 % over the optimum; the smallest instances of each kind are listed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.simulate import LRU, MRU, OURS, Outcome, ideal, run, sequence
from residency.simulate.optimum import optimum

UNIT = 10**6  # bytes; the drive reads one a second
GOOD = 1.03
TARGETS = {"median": 1.03, "p95": 1.10, "worse_than_lru": 0, "worse_than_mru": 0}


@dataclass(frozen=True, slots=True)
class Instance:
    """`sizes` in units, `uses` as (component, compute seconds), `room` in units."""

    sizes: tuple[int, ...]
    uses: tuple[tuple[int, int], ...]
    room: int

    def size(self) -> int:
        return 10 * len(self.uses) + sum(self.sizes)


def draw(random_: random.Random) -> Instance:
    """A random instance whose uses touch every component and do not fit all at once."""
    while True:
        sizes = tuple(random_.randint(1, 6) for _ in range(random_.randint(2, 5)))
        count = random_.randint(max(4, len(sizes)), 10)
        uses = tuple((random_.randrange(len(sizes)), random_.randint(1, 8)) for _ in range(count))
        if len({component for component, _ in uses}) == len(sizes) and sum(sizes) - 1 >= max(sizes):
            return Instance(sizes, uses, random_.randint(max(sizes), sum(sizes) - 1))


def simulate(instance: Instance, policy: Any) -> Outcome:
    """The instance under a policy, on two tiers."""
    sizes = {chr(97 + number): size * UNIT for number, size in enumerate(instance.sizes)}
    uses = [(chr(97 + component), float(compute)) for component, compute in instance.uses]
    return run(sequence("instance", sizes, uses), ideal(instance.room * UNIT, UNIT), policy)


def classify(instance: Instance, ours: Outcome) -> str:
    """The first of the known reasons that the trace shows; most instances show one."""
    units = {chr(97 + number): size for number, size in enumerate(instance.sizes)}
    decisions = ours.traces[0].as_dict()["decisions"]
    evicted = {(d["time_s"], d["component"]) for d in decisions if d["kind"] == "evict"}
    asked = [d for d in decisions if d["kind"] == "prefetch"]
    cut = [d for d in asked if d["size_bytes"] < units[d["component"]] * UNIT]
    used_units = sum(instance.sizes[component] for component in {component for component, _ in instance.uses})
    read_units = round((ours.read_ahead_bytes + ours.consumer_bytes) / UNIT)
    if any((d["time_s"], d["component"]) in evicted for d in asked):
        return "evicted whole and read again in part at once"
    if cut and ours.consumer_bytes > UNIT // 2:
        return "prefetch cut short, the node read the rest itself"
    if ours.consumer_bytes > UNIT // 2:
        return "not prefetched, the node read it itself"
    if read_units > used_units:
        return "read more than once"
    return "read late or in the wrong order"


def measure(count: int, seed: int) -> dict[str, Any]:
    """All figures of the benchmark."""
    random_ = random.Random(seed)
    ratios: list[float] = []
    worse: dict[str, list[Instance]] = {"lru": [], "mru": []}
    losses: dict[str, list[tuple[Instance, float, float]]] = defaultdict(list)
    for _ in range(count):
        instance = draw(random_)
        best_s = optimum(instance.sizes, instance.uses, instance.room)
        ours = simulate(instance, OURS)
        ratio = ours.total_s / best_s
        ratios.append(ratio)
        for name, policy in (("lru", LRU), ("mru", MRU)):
            if ours.total_s > simulate(instance, policy).total_s + 1e-6:
                worse[name].append(instance)
        if ratio > GOOD:
            losses[classify(instance, ours)].append((instance, best_s, ours.total_s))
    ratios.sort()
    return {
        "instances": count,
        "seed": seed,
        "median": round(statistics.median(ratios), 4),
        "p95": round(ratios[min(len(ratios) - 1, int(0.95 * len(ratios)))], 4),
        "worst": round(ratios[-1], 4),
        "optimal": sum(ratio < 1 + 1e-6 for ratio in ratios),
        "worse_than_lru": len(worse["lru"]),
        "worse_than_mru": len(worse["mru"]),
        "targets": TARGETS,
        "smallest_worse_than_lru": [asdict(one) for one in sorted(worse["lru"], key=Instance.size)[:3]],
        "smallest_worse_than_mru": [asdict(one) for one in sorted(worse["mru"], key=Instance.size)[:3]],
        "losses": {
            reason: {
                "count": len(found),
                "lost_s": round(sum(ours_s - best_s for _, best_s, ours_s in found), 1),
                "smallest": [
                    {**asdict(one), "optimum_s": best_s, "ours_s": round(ours_s, 3)}
                    for one, best_s, ours_s in sorted(found, key=lambda loss: loss[0].size())[:3]
                ],
            }
            for reason, found in sorted(losses.items(), key=lambda item: -len(item[1]))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = measure(options.instances, options.seed)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for key in ("instances", "median", "p95", "worst", "optimal", "worse_than_lru", "worse_than_mru"):
        print(f"{key:<16} {result[key]}")
    for reason, loss in result["losses"].items():
        print(f"{loss['count']:>5} {reason}, {loss['lost_s']} s")
        for one in loss["smallest"]:
            print(f"      {one}")


if __name__ == "__main__":
    main()
