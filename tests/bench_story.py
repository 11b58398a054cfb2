"""Builders for the bench's tests: a scenario's raw results from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from residency.bench.results import VERSION
from residency.bench.scenarios import Target, Workflow

GB = 10**9
GAIN = Target(1.2, over_bound=2.0)
MACHINE = {"cpus": 4, "ram_bytes": 64 * GB, "ram_available_bytes": 60 * GB, "system": "Linux 6", "comfyui": "0.33.0", "pack": "0.1.0"}
CUDA = {"device": "H100", "device_bytes": 80 * GB, "torch": "2.13", "pinned_bytes_per_s": 40 * GB, "pageable_bytes_per_s": 8 * GB}
CUDA = {**CUDA, "pinned_back_bytes_per_s": 30 * GB}
SIZES = {"clip": 10 * GB, "a": 20 * GB, "b": 20 * GB}
USES = {"uses": {"4": ["clip"], "6": ["a"], "10": ["b"]}, "passes": {"4": 1, "6": 20, "10": 20}}
NODES = [["4", "CLIPTextEncode", 0.0, 1.0], ["6", "KSampler", 1.0, 5.0], ["10", "KSampler", 5.0, 9.0]]


def copied(onloaded_bytes: int, onload_bytes_per_s: float | None) -> dict[str, Any]:
    """One prompt's copies over the link, as the pack tells them."""
    return {"onloaded_bytes": onloaded_bytes, "onload_bytes_per_s": onload_bytes_per_s}


def ran(
    side: str, seconds: float, number: int = 1, digest: str = "same", *, blank: bool = False, pack: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """One measured prompt; every node's times are those of NODES. `pack`: what the pack told of each prompt of the queue."""
    prompts = [{"workflow": Workflow.TWO.value, "nodes": NODES, "end_s": seconds}]
    told = {"side": side, "round": 0, "number": number, "seconds": seconds, "digest": digest, "blank": blank, "prompts": prompts}
    return told if pack is None else {**told, "pack": list(pack)}


RUN = {"command": "python -m residency bench", "started": "2026-11-23 12:00:00 +0000"}
DRIVE = {"direct, 4 threads": 2.0 * GB, "buffered, 1 thread": 1.0 * GB}


def scenario(*runs: dict[str, Any], cold: bool = False, device_free_bytes: int | None = None, target: Target = GAIN) -> dict[str, Any]:
    """The raw part of one scenario on two experts of 20 GB, drive 2 GB/s, link 40 GB/s."""
    return {
        "what": "two experts",
        "ways": {run["side"]: "this checkout" for run in runs},
        "machine": MACHINE | CUDA,
        "drive": DRIVE,
        **RUN,
        "precision": "bf16",
        "queue": [Workflow.TWO.value],
        "limits": {"device_free_bytes": device_free_bytes, "host_free_bytes": None},
        "temperature": "cold" if cold else "warm",
        "resident": not cold and device_free_bytes is None,
        "target": asdict(target),
        "arguments": [],
        "sizes": SIZES,
        "prompts": {Workflow.TWO.value: USES},
        "runs": list(runs),
        "held": [],
        "complete": True,
        "error": None,
    }


def results(**scenarios: dict[str, Any]) -> dict[str, Any]:
    head = {"version": VERSION, "size": "full", **RUN, "rounds": 1, "prompts": 1, "machine": MACHINE | CUDA, "drive": DRIVE}
    return {**head, "scenarios": scenarios, "skipped": {}}
