"""A trace in the trace-event format, which Perfetto opens."""

from __future__ import annotations

from typing import Any

from ..core.component import Tier


def chrome(trace: dict[str, Any]) -> dict[str, Any]:
    """A version 1 trace as Chrome trace events: microseconds, one thread a lane.

    Source: "Trace Event Format", the Chromium project.
    """
    names = {component["key"]: component["name"] for component in trace["components"]}
    lanes = {"nodes": 0, Tier.HOST.value: 1, Tier.DEVICE.value: 2, Tier.DISK.value: 3}
    titles = {"nodes": "Nodes", Tier.HOST.value: "To RAM", Tier.DEVICE.value: "To VRAM", Tier.DISK.value: "To drive"}  # the panel's
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": titles[lane]}} for lane, tid in lanes.items()
    ]

    def span(name: str, lane: str, start_s: float, end_s: float | None, args: dict[str, Any]) -> None:
        end_s = trace["duration_s"] if end_s is None else end_s
        events.append(
            {
                "name": name,
                "ph": "X",
                "pid": 1,
                "tid": lanes[lane],
                "ts": start_s * 1e6,
                "dur": max(0.0, end_s - start_s) * 1e6,
                "args": args,
            }
        )

    for node in trace["nodes"]:
        args = {key: node[key] for key in ("stall_s", "own_s", "unsplit_s", "loads", "computes") if key in node}
        span(f"{node['class_type']} {node['node_id']}", "nodes", node["start_s"], node["end_s"], args)
        at_s, number = node["start_s"], 0
        for took_s, stall_s, together in node.get("steps", ()):  # nested below their node; traces of older versions have none
            number += together
            name = f"step {number}" if together == 1 else f"steps {number - together + 1} to {number}"
            span(name, "nodes", at_s, at_s + took_s, {"stall_s": stall_s, "compute_s": took_s - stall_s})
            at_s += took_s
    for transfer in trace["transfers"]:
        args = {key: transfer[key] for key in ("moved_bytes", "present_bytes", "status", "reason")}
        span(names.get(transfer["component"], transfer["component"]), transfer["tier"], transfer["start_s"], transfer["end_s"], args)
    for eviction in trace["evictions"]:
        name = f"evict {names.get(eviction['component'], eviction['component'])}"
        args = {"freed_bytes": eviction["freed_bytes"], "reason": eviction["reason"]}
        events.append(
            {"name": name, "ph": "i", "s": "t", "pid": 1, "tid": lanes[eviction["tier"]], "ts": eviction["time_s"] * 1e6, "args": args}
        )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"prompt_id": trace["prompt_id"], "mode": trace["mode"]}}
