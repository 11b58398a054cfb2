"""What it costs to see that every weight passes the gate: milliseconds a pass, on this machine's processor.

    python benchmarks/proofs.py [WEIGHTS]

While a kind of models is new (six passes at most of a node, of two nodes) each weight that is asked for is noted, and after each pass
every weight is looked at. Afterwards a weight that is asked for meets one flag. Medians. What the first pass of a kind waits longer for
its copies is the link's time, and shows on a GPU only.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.comfyui.device.copy_fence import Gate
from residency.comfyui.device.coverage import Coverage

REPEATS = 200


class Weight:
    """What of a module the gate and the coverage look at."""

    def __init__(self, number: int) -> None:
        self._v = ("buffer", 100 * number, 100)
        self._v_signature: Any = object()


def median_ms(act: Callable[[], object], prepare: Callable[[], object] = bool) -> float:
    took_s = []
    for _ in range(REPEATS):
        prepare()
        started_s = time.perf_counter()
        act()
        took_s.append(time.perf_counter() - started_s)
    return 1e3 * statistics.median(took_s)


def main() -> None:
    weights = [Weight(number) for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)]
    gate = Gate()

    def one_pass() -> None:
        for weight in weights:
            gate.wait([weight])

    idle_ms = median_ms(one_pass)
    asked_ms = median_ms(one_pass, lambda: gate.watch(on=True))
    coverage = Coverage(weights)
    gate.watch(on=True)
    one_pass()
    looked_ms = median_ms(lambda: coverage.pass_ends(gate))
    print(f"{len(weights)} weights: watched {asked_ms - idle_ms + looked_ms:.2f} ms a pass; not watched {idle_ms:.2f} ms")


if __name__ == "__main__":
    main()
