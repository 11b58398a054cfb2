"""A forecast of the rest of the running prompt: which node begins when, which components are read for it and where it will wait. Pure, for
people to look at: nothing is decided by it.

One reader, in the order of the plan; a node begins when the one before has ended and waits until its bytes are there. So a wait is told
rather too long than too short: the first pass over weights can run while the last of them arrive.

A node's time is known where the same work has run before, or where its steps so far show its pace. Runs of another size say nothing here: a
sampler at twice the width takes four times as long and more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from ..core.timeline import Timeline, UseKind, Visit
from .node_times import Running

MOST_NODES = 200
LEAST_PACES = 2  # one step more than the first may be an odd one


class Unknown(Enum):
    """Why a node's time cannot be told."""

    NEW = "new"  # the same work has not run before
    LONGER = "longer"  # it runs for longer than earlier runs' margin allows
    DRIVE = "drive"  # nobody has measured where its weights are read from


@dataclass(frozen=True, slots=True)
class Rest:
    """Seconds of computing that a node still takes: about `value_s`, between the other two. `unknown`: why they are not told, and 0."""

    value_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    unknown: Unknown | None = None


def rest_of(visit: Visit, margin_s: float | None, running: Running | None = None) -> Rest:
    """Of a node that is to run, or runs. `margin_s`: how far the same work's earlier runs may be from `visit.compute_s`; None: none ran."""
    if visit.asks is not None:  # it only asks for its lazy inputs
        return Rest()
    ran_s = 0.0 if running is None else running.ran_s
    before = None if margin_s is None else max(0.0, visit.compute_s - ran_s)
    if running is not None and running.left is not None and len(running.paces_s) >= LEAST_PACES:
        value_s, low_s, high_s = (
            max(0.0, pace_s * running.left - running.since_s)
            for pace_s in (median(running.paces_s), min(running.paces_s), max(running.paces_s))
        )
        # earlier runs may know of work behind the steps
        return Rest(value_s, low_s, max(high_s, before or 0.0))
    if margin_s is None or before is None:
        return Rest(unknown=Unknown.NEW)
    high_s = visit.compute_s + margin_s - ran_s
    if running is not None and high_s <= 0:
        return Rest(unknown=Unknown.LONGER)
    return Rest(before, max(0.0, before - margin_s), high_s)


def foreseen(
    timeline: Timeline,
    position: int,
    prompt_id: str,
    now_s: float,
    running: Running | None,
    missing: Mapping[str, int],
    rates: Mapping[str, float],
    margins_s: Mapping[str, float],
) -> dict[str, Any]:
    """JSON-ready: `nodes`, `reads`, `end_s`, `low_s` and `high_s`; docs/trace.md describes the keys.

    `position`: of the visit that runs, or that runs next where `running` is None. `missing`: bytes by component that are not in host
    memory; `rates`: bytes per second by component, none where nobody has measured. `margins_s`: seconds by node, of those whose same work
    has run before. Times are on the clock of `now_s`. A node or read of unknown time takes none, and `unknown` says why.
    """
    nodes: list[dict[str, Any]] = []
    reads: list[dict[str, Any]] = []
    ready: dict[str, float] = {}
    at_s = reader_s = low_s = high_s = now_s
    for index, visit in enumerate(timeline.visits[position : position + MOST_NODES], position):
        if visit.prompt_id != prompt_id:
            break
        uses = timeline.at(index)
        runs = running if index == position else None
        rest = rest_of(visit, margins_s.get(visit.node_id), runs)
        ready_s, unknown = at_s, rest.unknown
        for key in dict.fromkeys(use.component for use in uses if use.reads):
            if key not in ready and missing.get(key, 0) > 0:
                rate = rates.get(key, 0.0)
                took_s = missing[key] / rate if rate > 0 else 0.0
                reads.append(
                    {"component": key, "start_s": reader_s, "end_s": reader_s + took_s, "size_bytes": missing[key], "needed_s": at_s}
                )
                ready[key] = reader_s = reader_s + took_s
                if rate <= 0:
                    unknown = unknown or Unknown.DRIVE
            ready_s = max(ready_s, ready.get(key, at_s))
        stall_s = ready_s - at_s
        end_s = at_s + stall_s + rest.value_s
        low_s, high_s = low_s + stall_s + rest.low_s, high_s + stall_s + rest.high_s
        nodes.append(
            {
                "node_id": visit.node_id,
                "class_type": visit.class_type,
                "start_s": at_s,
                "end_s": end_s,
                "stall_s": stall_s,
                "unknown": None if unknown is None else unknown.value,
                "running": runs is not None,
                "computes": [use.component for use in uses if use.kind is UseKind.COMPUTE],
                "loads": [use.component for use in uses if use.kind is UseKind.LOAD],
            }
        )
        at_s = end_s
    return {"nodes": nodes, "reads": reads, "end_s": at_s, "low_s": min(low_s, at_s), "high_s": max(high_s, at_s)}
