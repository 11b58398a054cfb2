"""What each of the pack's decisions is worth: scenarios, all but the last measured, simulated with one of them left out at a time.

    python benchmarks/ablations.py [--json]

Seconds of each prompt from the second on (of a cold scenario, the first), and what it read from the drive. Stock and ours stand beside:
docs/benchmarks.md tells how far the simulator is from what was measured. A decision is left out by putting something simpler in its place
in the deciding core or the simulator, or by another policy of the simulator; nothing of it can be chosen in the pack.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from residency.core import host_plan, host_room
from residency.core.device_placement import Placement
from residency.core.timeline import Timeline
from residency.simulate import comfyui_model, policies
from residency.simulate.policies import OURS, OURS_DEVICE, OURS_EXCHANGING, STOCK
from residency.simulate.run import run
from residency.simulate.scenarios import Scenario, both_sides, short_of_both

GB = 10**9


@contextmanager
def put(owner: Any, name: str, there: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, there)
    try:
        yield
    finally:
        setattr(owner, name, before)


_timeline = policies._ManagedPack._timeline


def no_repetition(self: Any, prompt: int) -> Timeline:
    told = _timeline(self, prompt)
    count = len(told.visits) if told.expected_from is None else told.expected_from
    return Timeline(told.visits[:count], tuple(use for use in told.uses if use.position < count))


def all_passed_often(self: Any, prompt: int) -> Timeline:
    told = _timeline(self, prompt)
    return Timeline(tuple(replace(visit, passes_once=False) for visit in told.visits), told.uses, told.expected_from)


@dataclass(frozen=True, slots=True)
class Without:
    """`puts`: (owner, name, what stands in its place)."""

    what: str
    policy: Any = OURS_EXCHANGING
    puts: tuple[tuple[Any, str, Any], ...] = ()


def nothing(*_: Any, **__: Any) -> None:
    return None


WAYS = (
    Without("stock", STOCK),
    Without("ours"),
    Without("the device is left to ComfyUI", OURS),
    Without("weights may have copies in both tiers, whatever RAM holds", OURS_DEVICE),
    Without("what streams is not spread over the pass, and crosses beside nothing", puts=((comfyui_model, "OVERLAP_NORM", 1.0),)),
    Without("nobody expects the prompt again", puts=((policies._ManagedPack, "_timeline", no_repetition),)),
    Without("free RAM is not filled with what comes next", puts=((host_plan._Draft, "fill_with_expected", nothing),)),
    Without("an encoder that is passed through once counts like the rest", puts=((policies._ManagedPack, "_timeline", all_passed_often),)),
    Without("what fits neither tier is not settled ahead", puts=((Placement, "settle", nothing),)),
    Without("what a node has gone through leaves the page cache like the rest", puts=((host_room.Room, "_is_behind", lambda *_: False),)),
    Without("a first prompt knows nothing of what nodes compute with", replace(OURS_EXCHANGING, first_share=0.0)),
    Without("the host does not tell what lies in RAM", replace(OURS_EXCHANGING, sees_host=False)),
)


@dataclass(frozen=True, slots=True)
class Told:
    scenario: str
    without: str
    seconds: tuple[float, ...]
    read_bytes: tuple[int, ...]


def chosen() -> Sequence[Scenario]:
    later = {one.name: one for one in both_sides()}
    return [later["S1-later"], later["S2-new"], later["C1"], later["C2"], later["S9"], short_of_both()]


def told(scenario: Scenario, way: Without) -> Told:
    with ExitStack() as stack:
        for one in way.puts:
            stack.enter_context(put(*one))
        outcome = run(scenario.program, scenario.machine, way.policy)
    first = 1 if len(outcome.prompts_s) > 1 else 0
    return Told(scenario.name, way.what, tuple(round(one, 2) for one in outcome.prompts_s[first:]), outcome.prompts_read_bytes[first:])


def table(rows: Sequence[Told]) -> str:
    """Markdown: a row a way, a column a scenario."""
    names = list(dict.fromkeys(row.scenario for row in rows))
    lines = [
        "| left out | " + " | ".join(name.removesuffix("-later").removesuffix("-new") for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for way in WAYS:
        cells = []
        for name in names:
            row = next(row for row in rows if (row.scenario, row.without) == (name, way.what))
            seconds = ", ".join(f"{one:.1f}" for one in row.seconds)
            read = sum(row.read_bytes) / len(row.read_bytes) / GB
            cells.append(f"{seconds} ({read:.1f} GB)")
        lines.append(f"| {way.what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [told(scenario, way) for scenario in chosen() for way in WAYS]
    print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main()
