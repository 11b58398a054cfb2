"""A forecast of the rest of the running prompt: which node begins when, what is read for it and where it will wait. Pure, for people to
look at: nothing is decided by it.

One reader, in the order of the plan; a node begins when the one before has ended and waits until its bytes are there. So a wait is told
rather too long than too short: the first pass over weights can run while the last of them arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.timeline import Timeline, UseKind

MOST_NODES = 200


def foreseen(
    timeline: Timeline,
    position: int,
    prompt_id: str,
    now_s: float,
    ran_s: float | None,
    missing: Mapping[str, int],
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """JSON-ready: `nodes`, `reads` and `end_s`; docs/trace.md describes the keys.

    `position`: of the visit that runs, or that runs next where `ran_s`, its seconds of computing so far, is None. `missing`: bytes by
    component that are not in host memory; `rates`: bytes per second by component, none where nobody has measured. Times are on the clock of
    `now_s`. What takes an unknown time takes none, and `known` is false.
    """
    nodes: list[dict[str, Any]] = []
    reads: list[dict[str, Any]] = []
    ready: dict[str, float] = {}
    at_s = reader_s = now_s
    for index, visit in enumerate(timeline.visits[position : position + MOST_NODES], position):
        if visit.prompt_id != prompt_id:
            break
        uses = timeline.at(index)
        running = index == position and ran_s is not None
        ready_s, known = at_s, visit.compute_s > 0
        for key in dict.fromkeys(use.component for use in uses if use.reads):
            if key not in ready and missing.get(key, 0) > 0:
                rate = rates.get(key, 0.0)
                took_s = missing[key] / rate if rate > 0 else 0.0
                reads.append(
                    {"component": key, "start_s": reader_s, "end_s": reader_s + took_s, "size_bytes": missing[key], "needed_s": at_s}
                )
                ready[key] = reader_s = reader_s + took_s
                known = known and rate > 0
            ready_s = max(ready_s, ready.get(key, at_s))
        compute_s = max(0.0, visit.compute_s - (ran_s or 0.0)) if running else visit.compute_s
        stall_s = ready_s - at_s
        end_s = at_s + stall_s + compute_s
        nodes.append(
            {
                "node_id": visit.node_id,
                "class_type": visit.class_type,
                "start_s": at_s,
                "end_s": end_s,
                "stall_s": stall_s,
                "known": known,
                "running": running,
                "computes": [use.component for use in uses if use.kind is UseKind.COMPUTE],
                "loads": [use.component for use in uses if use.kind is UseKind.LOAD],
            }
        )
        at_s = end_s
    return {"nodes": nodes, "reads": reads, "end_s": at_s}
