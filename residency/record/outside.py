"""A run as a client sees it, in the shape of a version 1 trace: when each node ran, without transfers or evictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def node(node_id: str, class_type: str, start_s: float, end_s: float, **more: Any) -> dict[str, Any]:
    """One node's record. `more`: further keys that the client knows."""
    return {"node_id": node_id, "class_type": class_type, "start_s": start_s, "end_s": end_s, "stall_s": 0.0, **more}


def trace(prompt_id: str, seconds: float, nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The trace of a prompt that took so many seconds, from records of its nodes."""
    seen = list(nodes)
    summary = {"compute_s": 0.0, "stall_s": 0.0, "wait_s": 0.0, "prefetched_bytes": 0, "wasted_bytes": 0, "evicted_bytes": 0}
    head = {"version": 1, "prompt_id": prompt_id, "mode": "off", "outcome": "success", "started_unix_s": 0.0, "duration_s": seconds}
    empty: dict[str, Any] = {"components": [], "transfers": [], "evictions": [], "decisions": []}
    return {**head, **empty, "nodes": seen, "summary": {**summary, "nodes": len(seen)}}
