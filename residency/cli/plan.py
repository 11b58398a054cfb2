"""`python -m residency plan`: will it fit, how long, where will it wait. The timeline, then each memory mode on a simulated machine.

The first prompt begins cold, with nothing in memory; the second is the same again, with memory as the first has left it.

Anything not understood (files that are nowhere, classes that nobody knows, files that cannot be read) is listed and counts as nothing; the
verdict then speaks of the rest. Exit status: 0 when something is understood, or no node names weights; 2 when none of the workflow's reads
are understood, and for a file that is no workflow. Of a picture, the prompt that made it counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.component import Mode
from ..core.timeline import UseKind, Visit
from ..simulate import OURS_EXCHANGING, STOCK, Machine, Outcome, Policy, Program, Step, run
from ..units import printable, size, written
from ..weights.components import distinct_bytes
from ..workflow.predict import Prediction, Why
from . import machines, pictures, programs
from .tables import seconds, table

MODES = (Mode.HIGH_VRAM, Mode.BALANCED, Mode.LOW_VRAM, Mode.OFF)
LEAST_STALL_S = 0.05  # below it nobody notices a wait
SHOWN_NODES = 40
NO_VERDICT = "nothing of what the workflow reads was understood"


@dataclass(frozen=True, slots=True)
class Forecast:
    """One mode: `first` of its nodes that is in trouble, in words; None where nothing is."""

    mode: Mode
    outcome: Outcome
    trouble: str | None

    @property
    def name(self) -> str:
        return "off (stock)" if self.mode is Mode.OFF else self.mode.value

    def stall_s(self, prompt: int) -> float:
        return sum(node.stall_s for node in self.outcome.nodes if node.prompt == prompt)


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    about = "tell for a workflow file whether it fits, how long it takes and where it waits; needs no ComfyUI"
    parser: argparse.ArgumentParser = commands.add_parser("plan", help=about, description=__doc__)
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help=programs.WORKFLOW_HELP)
    programs.add_options(parser)
    patchers = ("dynamic", "legacy")
    parser.add_argument("--patcher", choices=patchers, default="dynamic", help="who loads weights in ComfyUI (%(default)s); see doctor")
    parser.add_argument("--mode", choices=[mode.value for mode in MODES], help="only this memory mode (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    machines.add_options(parser)
    pictures.add_options(parser)
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    reads_at = UseKind.COMPUTE if options.patcher == "dynamic" else UseKind.LOAD
    (prepared,) = programs.prepare([options.workflow], options, reads_at)
    described = machines.describe(options, programs.disk_rate(options), "by the profiles")
    work = programs.program([prepared], queued=False, repeats=2)
    modes = MODES if options.mode is None else (Mode(options.mode),)
    if options.patcher == "legacy":
        print("residency: the seconds are those of dynamic VRAM: the legacy patcher is not simulated", file=sys.stderr)
    forecasts = [forecast(mode, work, described.machine) for mode in modes]
    paths = pictures.write(options, [(one.name, pictures.trace_of(one.outcome, work)) for one in forecasts])
    if options.json:
        told = {**timeline_json(prepared.prediction), **as_json(prepared, work, described, forecasts)}
        print(json.dumps(told, indent=1))
    else:
        print("\n".join([timeline_text(prepared.prediction), "", *as_text(prepared, work, described, forecasts), *paths]))
    if prepared.prediction.says_nothing:
        way = "give ComfyUI's models folder with --models-directory, or sizes with --sizes"
        print(f"residency: {options.workflow}: nothing of what it reads was understood; {way}", file=sys.stderr)
        return 2
    return 0


def forecast(mode: Mode, work: Program, machine: Machine) -> Forecast:
    """Simulate one mode."""
    policy: Policy = STOCK if mode is Mode.OFF else replace(OURS_EXCHANGING, mode=mode)
    outcome = run(work, machine, policy)
    return Forecast(mode, outcome, trouble(work, machine, outcome))


def trouble(work: Program, machine: Machine, outcome: Outcome) -> str | None:
    """The first node of the first prompt that does not fit the device or waits for weights, and why."""
    limit_bytes = max(0, machine.device_bytes - machine.device_overhead_bytes)
    for step, time in zip(work.prompts[0], outcome.nodes, strict=False):
        weights_bytes = work.step_bytes(step)
        if weights_bytes and weights_bytes + step.working_set_bytes > limit_bytes:
            over = written(weights_bytes + step.working_set_bytes - limit_bytes)
            again = f", each of its {step.passes} passes" if step.passes > 1 else ""
            return f"{_node(step)}: {over} of {_names(work, step)} do not fit the device and cross the link again{again}"
        if time.stall_s >= LEAST_STALL_S:
            return f"{_node(step)} waits {seconds(time.stall_s)} for {_names(work, step)}"
    return None


def verdict(one: Forecast, prediction: Prediction) -> str:
    """One mode in a line. It never says that all fits when something was left out."""
    unclear = len(prediction.not_understood)
    if prediction.says_nothing:
        return NO_VERDICT
    if one.trouble:
        return f"first trouble: {one.trouble}"
    return f"what was understood fits; {_things(unclear)} not understood" if unclear else "fits, and nothing waits"


def _things(count: int) -> str:
    return "1 thing was" if count == 1 else f"{count} things were"


def timeline_json(prediction: Prediction) -> dict[str, Any]:
    timeline = prediction.timeline
    return {
        "visits": [
            {
                "node_id": visit.node_id,
                "class_type": visit.class_type,
                "uses": [{"component": use.component, "kind": use.kind.value, "reads": use.reads} for use in timeline.at(position)],
            }
            for position, visit in enumerate(timeline.visits)
        ],
        "components": [
            {"key": one.key, "name": one.name, "kind": one.kind, "size_bytes": one.size_bytes} for one in prediction.components.values()
        ],
        "missing": [{"node_id": node_id, "class_type": class_type, "file": name} for node_id, class_type, name in prediction.missing],
        "not_understood": programs.as_json(prediction.not_understood),
        "warnings": list(prediction.warnings),
    }


def as_json(prepared: programs.Prepared, work: Program, described: machines.Described, forecasts: Sequence[Forecast]) -> dict[str, Any]:
    machine = described.machine
    return {
        "machine": {
            "vram_bytes": machine.device_bytes,
            "host_free_bytes": machine.host_bytes,
            "disk_bytes_per_s": machine.drives[0].read_bytes_per_s,
            "link_bytes_per_s": machine.pinned_bytes_per_s,
            "told": described.line,
        },
        "compute_unknown_nodes": prepared.unknown,
        "modes": [
            {
                "mode": one.mode.value,
                "first_s": one.outcome.prompts_s[0],
                "first_stall_s": one.stall_s(0),
                "again_s": one.outcome.prompts_s[1],
                "again_stall_s": one.stall_s(1),
                "peak_vram_bytes": one.outcome.peak_device_bytes,
                "peak_ram_bytes": one.outcome.peak_host_bytes,
                "trouble": one.trouble,
                "verdict": verdict(one, prepared.prediction),
                "nodes": [
                    {"node_id": step.node_id, "class_type": step.class_type, "compute_s": time.compute_s, "stall_s": time.stall_s}
                    for step, time in zip(work.prompts[0], one.outcome.nodes, strict=False)
                ],
            }
            for one in forecasts
        ],
    }


def timeline_text(prediction: Prediction) -> str:
    """Order of nodes, their loads and uses, and missing files."""
    lines = []
    read: set[str] = set()
    for position, visit in enumerate(prediction.timeline.visits):
        told = []
        for use in prediction.timeline.at(position):
            component = prediction.components[use.component]
            verb = "loads" if use.kind is UseKind.LOAD else "computes with"
            reads = use.reads and use.component not in read
            told.append(f"{verb} {printable(component.name)}" + (f", reads {size(component.size_bytes)}" if reads else ""))
            if use.reads:
                read.add(use.component)
        lines.append(f"{position + 1:>4}  {_node(visit)} ".ljust(40) + ("; ".join(told) or "-"))
    total_bytes = distinct_bytes(prediction.components[key] for key in read)
    unclear = len(prediction.not_understood)
    known = f"{len(read)} component{'' if len(read) == 1 else 's'}, {size(total_bytes)} to read"
    known = "what is to be read is unknown" if prediction.says_nothing else known
    known = "no node names weights: nothing is to be read" if prediction.reads_nothing else known
    lines += ["", known + (f"; {_things(unclear)} not understood:" if unclear else "")]
    lines += [programs.told(one) for one in prediction.not_understood if one.why is not Why.UNUSABLE]
    lines += [f"warning: {' '.join(warning.splitlines())}" for warning in prediction.warnings]
    return "\n".join(lines)


def as_text(prepared: programs.Prepared, work: Program, described: machines.Described, forecasts: Sequence[Forecast]) -> list[str]:
    lines = [described.line]
    if prepared.prediction.says_nothing:
        return [*lines, "", f"No forecast: {NO_VERDICT}."]
    if prepared.unknown == len(prepared.steps):
        lines.append("Compute is unknown and counts as 0 s: what stands below is waiting alone. A run with the pack teaches it.")
    elif prepared.unknown:
        known = len(prepared.steps) - prepared.unknown
        lines.append(f"Compute is known of {known} of {len(prepared.steps)} nodes by earlier runs; the others count as 0 s.")
    head = ("mode", "first", "of it stall", "again", "of it stall", "peak VRAM", "peak RAM")
    rows = [
        (
            one.name,
            seconds(one.outcome.prompts_s[0]),
            seconds(one.stall_s(0)),
            seconds(one.outcome.prompts_s[1]),
            seconds(one.stall_s(1)),
            written(one.outcome.peak_device_bytes),
            written(one.outcome.peak_host_bytes),
        )
        for one in forecasts
    ]
    lines += ["", *table(head, rows), ""]
    lines += [f"{one.name}: {verdict(one, prepared.prediction)}" for one in forecasts]
    waits = [
        (_node(step), seconds(step.compute_s) if step.compute_s else "unknown", *stalls)
        for index, step in enumerate(work.prompts[0])
        if any(one.outcome.nodes[index].stall_s >= LEAST_STALL_S for one in forecasts)
        for stalls in [[seconds(one.outcome.nodes[index].stall_s) for one in forecasts]]
    ]
    if waits:
        lines += ["", "Stall by node, first prompt:", *table(("node", "computes", *(one.name for one in forecasts)), waits[:SHOWN_NODES])]
    return lines


def _node(step: Step | Visit) -> str:
    return f"{printable(step.class_type)} {printable(step.node_id)}"


def _names(work: Program, step: Step) -> str:
    return " + ".join(printable(work.components[key].name) for key in step.components) or "what came before it"
