"""`python -m residency replay TRACE.json`: a recorded run on another machine, or under another policy.

A recording of facts (RESIDENCY_RECORD=FILE) is told to this version's session and manager instead: are the instructions still the same?

The trace gives the order, the compute, the weights and the steps; the options give the machine. Nodes that compute with a diffusion
model go over its weights once a step, --passes times where the trace does not tell the steps; all others once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.component import Component
from ..record.facts import FactsError, is_recording, replayed
from ..simulate import Program, Step, run
from ..units import UsageError, written
from . import machines, pictures
from .simulate import POLICIES, as_json, as_text
from .tables import seconds

PASSES = 20
# Less than this in one trace says more of the moment than of the drive.
LEAST_MEASURED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trace as a program of one prompt, the prompt's time, and the rate at which its transfers read; None where too little was read."""

    program: Program
    duration_s: float
    stall_s: float
    prefetched_bytes: int
    disk_bytes_per_s: float | None


def register(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay", help="tell what a recorded run would have taken on another machine or under another policy", description=__doc__
    )
    parser.add_argument("trace", type=Path, metavar="TRACE.json", help="GET /residency/trace, the Report node's json, or facts")
    parser.add_argument("--policy", choices=[*POLICIES, "all"], default="all", help="who moves the weights (%(default)s)")
    parser.add_argument("--passes", type=int, default=PASSES, metavar="N", help="steps of samplers whose trace tells none (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    machines.add_options(parser)
    pictures.add_options(parser)
    parser.set_defaults(run=command)


def command(options: argparse.Namespace) -> int:
    if options.passes < 1:
        raise UsageError(f"--passes: {options.passes} passes compute nothing; give 1 or more")
    if is_recording(options.trace):
        return replay_facts(options.trace)
    trace = read_trace(options.trace)
    recorded = recorded_of(trace, options.passes, str(options.trace))
    described = machines.describe(options, recorded.disk_bytes_per_s, "as this trace read")
    policies = list(POLICIES.values()) if options.policy == "all" else [POLICIES[options.policy]]
    outcomes = [run(recorded.program, described.machine, policy) for policy in policies]
    drawn = [("recorded", trace), *(("", pictures.trace_of(one, recorded.program)) for one in outcomes)]
    paths = pictures.write(options, drawn)
    if options.json:
        told = {"machine": described.line, "recorded": {"total_s": recorded.duration_s, "stall_s": recorded.stall_s}}
        print(json.dumps({**told, **as_json(outcomes, recorded.program, described.machine)}, indent=1))
        return 0
    row = ("recorded", seconds(recorded.duration_s), seconds(recorded.stall_s), written(recorded.prefetched_bytes), "", "")
    lines = [described.line, "", *as_text(outcomes, recorded.program, described.machine, [row]), ""]
    ram = written(described.machine.host_bytes)
    best = min(outcomes, key=lambda one: one.total_s)
    would = f"this would have taken {seconds(best.total_s)} ({best.policy})"
    lines.append(f"With {ram} of RAM free for weights {would}; it took {seconds(recorded.duration_s)}.")
    print("\n".join([*lines, *paths]))
    return 0


def replay_facts(path: Path) -> int:
    """Exit status 0 where the instructions are the same, 1 where they are not. Raises UsageError."""
    try:
        done = replayed(path)
    except FactsError as error:
        raise UsageError(str(error)) from error
    print(f"{done.facts} facts, {done.instructions} instructions: {done.difference or 'the same as recorded'}")
    return 0 if done.difference is None else 1


def read_trace(path: Path) -> dict[str, Any]:
    """A version 1 trace. Raises UsageError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); save what GET /residency/trace gives") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error}); save what GET /residency/trace gives") from error
    if isinstance(data, dict) and "traceEvents" in data:
        raise UsageError(f"{path}: this is the Chrome format; save GET /residency/trace without format=chrome")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("components", "nodes", "transfers")):
        raise UsageError(f"{path}: no trace of the pack; save what GET /residency/trace gives")
    if data.get("version") != 1:
        raise UsageError(f"{path}: a trace of version {data.get('version')!r}, this command reads version 1; update the pack that reads it")
    return data


def recorded_of(trace: Mapping[str, Any], passes: int, name: str) -> Recorded:
    """The trace as a program. Raises UsageError for a trace that was edited into nonsense."""
    try:
        parts = {
            one["key"]: Component(one["key"], str(one["name"]), str(one["kind"]), int(one["size_bytes"])) for one in trace["components"]
        }
        steps = tuple(_step(node, parts, float(trace["duration_s"]), passes) for node in trace["nodes"])
        work = Program(name, parts, (steps,))
        summary = trace["summary"]
        stall_s, prefetched_bytes = float(summary["stall_s"]), int(summary["prefetched_bytes"])
        return Recorded(work, float(trace["duration_s"]), stall_s, prefetched_bytes, _disk_rate(trace))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{name}: a trace that cannot be replayed ({what}); save it again from GET /residency/trace") from error


def _step(node: Mapping[str, Any], parts: Mapping[str, Component], end_s: float, passes: int) -> Step:
    ended_s = end_s if node["end_s"] is None else float(node["end_s"])
    no_compute_s = sum(float(node.get(key, 0.0)) for key in ("stall_s", "own_s", "unsplit_s"))
    compute_s = max(0.0, ended_s - float(node["start_s"]) - no_compute_s)
    keys = tuple(dict.fromkeys(node["computes"]))
    samples = any(parts[key].kind == "MODEL" for key in keys)
    told = sum(int(together) for *_, together in node.get("steps", ()))  # traces of older versions have none
    return Step(str(node["node_id"]), str(node["class_type"]), compute_s, keys, (told or passes) if samples else 1)


def _disk_rate(trace: Mapping[str, Any]) -> float | None:
    """Bytes of all transfers to the host over the time in which any of them ran."""
    moved = [one for one in trace["transfers"] if one["tier"] == "host" and one["moved_bytes"] and one["end_s"] is not None]
    moved_bytes = sum(int(one["moved_bytes"]) for one in moved)
    busy_s, reached_s = 0.0, 0.0
    for start_s, end_s in sorted((float(one["start_s"]), float(one["end_s"])) for one in moved):
        busy_s += max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return moved_bytes / busy_s if moved_bytes >= LEAST_MEASURED_BYTES and busy_s > 0 else None
