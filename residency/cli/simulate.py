"""`python -m residency simulate WORKFLOW.json [MORE.json ...]`: the policies over the queue of these workflows, on one machine.

Without a workflow it shows the scenarios that were measured (baseline.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..simulate import H100, LRU, MRU, OURS, STOCK, Machine, Outcome, Policy, Program, bound_s, run
from ..simulate.scenarios import both_sides, scenarios
from ..units import written
from . import baseline, machines, pictures, programs
from .tables import seconds, table

POLICIES: dict[str, Policy] = {"stock": STOCK, "lru": LRU, "mru": MRU, "ours": OURS}


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "simulate", help="simulate the measured scenarios: stock ComfyUI, the pack and the schedule bound"
    )
    parser.add_argument("--baseline", action="store_true", help="the scenarios of the baseline (the default)")
    parser.add_argument(
        "--start-share", action="store_true", help="a cold prompt, its nodes held until that share of their weights is read"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    about = f"run these in this order, not the baseline: each {programs.WORKFLOW_HELP}"
    parser.add_argument("workflows", nargs="*", type=Path, metavar="WORKFLOW.json", help=about)
    programs.add_options(parser)
    machines.add_options(parser)
    pictures.add_options(parser)
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    if not options.workflows:
        return _baseline(options)
    prepared = programs.prepare(options.workflows, options)
    described = machines.describe(options, programs.disk_rate(options), "by the profiles")
    work = programs.program(prepared)
    outcomes = [run(work, described.machine, policy) for policy in POLICIES.values()]
    paths = pictures.write(options, [("", pictures.trace_of(one, work)) for one in outcomes])
    unknown = sum(one.unknown for one in prepared)
    if options.json:
        told = {"machine": described.line, "compute_unknown_nodes": unknown}
        told |= {"missing": [name for one in prepared for *_, name in one.prediction.missing]}
        told |= {"not_understood": [entry for one in prepared for entry in programs.as_json(one.prediction.not_understood)]}
        print(json.dumps({**told, **as_json(outcomes, work, described.machine)}, indent=1))
        return 0
    lines = [described.line]
    if unknown:
        lines.append(f"Compute is unknown of {unknown} of {sum(len(one.steps) for one in prepared)} nodes and counts as 0 s.")
    lines += [f"{one.name}: {programs.told(entry)}" for one in prepared for entry in one.prediction.not_understood]
    print("\n".join([*lines, "", *as_text(outcomes, work, described.machine), *paths]))
    return 0


def _baseline(options: argparse.Namespace) -> int:
    if options.start_share:
        starts = baseline.start_shares()
        print(json.dumps(starts, indent=1) if options.json else baseline.starts_as_text(starts))
        return 0
    rows = [baseline.row(scenario) for scenario in (*scenarios(H100), *both_sides())]
    print(json.dumps([asdict(one) for one in rows], indent=1) if options.json else baseline.as_text(rows))
    return 0


def as_json(outcomes: Sequence[Outcome], work: Program, machine: Machine) -> dict[str, Any]:
    return {
        "policies": [
            {
                "policy": one.policy,
                "total_s": one.total_s,
                "stall_s": one.stall_s,
                "prompts_s": list(one.prompts_s),
                "read_bytes": one.read_ahead_bytes + one.consumer_bytes,
                "peak_vram_bytes": one.peak_device_bytes,
                "peak_ram_bytes": one.peak_host_bytes,
            }
            for one in outcomes
        ],
        "bound_s": bound_s(work, machine),
    }


def as_text(outcomes: Sequence[Outcome], work: Program, machine: Machine, before: Sequence[Sequence[str]] = ()) -> list[str]:
    """One row a policy; `before` are rows above them."""
    compute_s = sum(step.compute_s for step in work.steps())
    rows = [
        (
            one.policy,
            seconds(one.total_s),
            seconds(one.stall_s),
            written(one.read_ahead_bytes + one.consumer_bytes),
            written(one.peak_device_bytes),
            written(one.peak_host_bytes),
        )
        for one in outcomes
    ]
    least_s = bound_s(work, machine)
    rows.append(("bound", seconds(least_s), seconds(max(0.0, least_s - compute_s)), "", "", ""))
    return table(("policy", "seconds", "of it stall", "read", "peak VRAM", "peak RAM"), [*before, *rows])
