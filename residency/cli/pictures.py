"""A simulated run as a trace for record/png.py and record/image.py, and the files that the user asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..record.image import html
from ..simulate import Outcome, Program
from ..units import UsageError

_TIMES = ("start_s", "end_s", "time_s")


def add_options(parser: argparse.ArgumentParser) -> None:
    """--png and --html."""
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the timelines into this picture")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the same as a page whose boxes tell their story")


def trace_of(outcome: Outcome, program: Program) -> dict[str, Any]:
    """All prompts of a simulated run as one version 1 trace: nodes for every policy, transfers for those that read ahead."""
    steps = list(program.steps())
    nodes, now_s = [], 0.0
    for step, time in zip(steps, outcome.nodes, strict=True):
        end_s = now_s + time.wait_s + time.run_s
        nodes.append(
            {
                "node_id": step.node_id, "class_type": step.class_type, "start_s": now_s, "end_s": end_s, "stall_s": time.stall_s,
                "loads": [], "computes": list(step.components),
            }
        )  # fmt: skip
        now_s = end_s
    starts_s = list(accumulate(outcome.prompts_s, initial=0.0))
    records: dict[str, list[dict[str, Any]]] = {"transfers": [], "evictions": [], "decisions": []}
    for start_s, trace in zip(starts_s, outcome.traces, strict=False):
        told = trace.as_dict()
        for kind, found in records.items():
            found += [_later(record, start_s) for record in told[kind]]
    compute_s = sum(time.compute_s for time in outcome.nodes)
    summary = {"compute_s": compute_s, "stall_s": outcome.stall_s, "prefetched_bytes": outcome.read_ahead_bytes, "wasted_bytes": 0}
    return {
        "version": 1, "prompt_id": program.name, "mode": outcome.policy, "outcome": "success", "duration_s": outcome.total_s,
        "components": [{"key": c.key, "name": c.name, "kind": c.kind, "size_bytes": c.size_bytes} for c in program.components.values()],
        "nodes": nodes, **records, "summary": summary,
    }  # fmt: skip


def write(options: argparse.Namespace, traces: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Write the files asked for; returns their paths. Raises UsageError where a file cannot be written."""
    paths = []
    try:
        if options.png is not None:
            try:
                from ..record.png import png
            except ImportError as error:
                raise UsageError("--png needs Pillow: pip install pillow, or take --html") from error
            options.png.write_bytes(png(traces))
            paths.append(str(options.png))
        if options.html is not None:
            options.html.write_text(html(traces), encoding="utf-8")
            paths.append(str(options.html))
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written ({error.strerror}); name a file in a folder that is there") from error
    return paths


def _later(record: dict[str, Any], by_s: float) -> dict[str, Any]:
    return {key: value + by_s if key in _TIMES and value is not None else value for key, value in record.items()}
