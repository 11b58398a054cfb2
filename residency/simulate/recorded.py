"""A run that has been recorded, as the simulator takes it: the prompt's trace in, program, machine and start out. Pure.

Nothing that a trace leaves out is guessed: the run is then said to be unknown, with the reason. What is not measured on every machine
stands in both runs that are compared, so that most of it cancels out: the page cache, freshly pinned memory and both directions of the link
at once are as fast as on the hosts of machine.H100 and H100_LATER.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..core.component import Component
from .machine import H100, H100_LATER, Drive, Machine
from .workload import Program, Start, Step

MAX_NODES = 2_000  # simulating as many takes longer than anybody waits for a sentence
LEAST_BYTES = 64 * 2**20  # read by the run itself: less says nothing of a drive's rate
MOST_SHARE_READ = 0.01  # of a prompt's weights: what is read of so few at any rate decides nothing


class Unknown(Enum):
    """Why a run cannot be simulated. The value is the panel's word for it (web/words.js)."""

    FAILED = "failed"  # it did not succeed
    OLD = "old"  # the trace is one of an older version
    LONG = "long"
    WAITING = "waiting"  # this system does not tell how long nodes waited
    CACHE = "cache"  # this system does not tell what lay in RAM
    DRIVE = "drive"  # nobody has measured the drive yet
    LINK = "link"  # nobody has measured the link to the device yet
    MODEL = "model"  # the simulated run is too far from the recorded one


@dataclass(frozen=True, slots=True)
class Recorded:
    """`rest_s`: time of the prompt beside its nodes. `repeats`: its nodes are the same when it runs again (a loader that reads its files
    is not: its result stays). `drive_known`: else nobody has measured its drive, and only what reads next to nothing can be told."""

    steps: tuple[Step, ...]
    components: Mapping[str, Component]
    machine: Machine
    drive_of: Mapping[str, int]
    start: Start
    rest_s: float
    duration_s: float
    has_device: bool
    repeats: bool
    drive_known: bool = True

    def program(self, prompts: int) -> Program:
        """The prompt, so many times, each one begun when the one before has ended."""
        return Program("recorded", self.components, (self.steps,) * prompts, self.drive_of, queued=False)


def recorded(trace: Mapping[str, Any], consumer_share: float) -> Recorded | Unknown:
    """`trace` is Trace.as_dict(). `consumer_share`: the part of the rate of many large reads that a node draws which reads by itself."""
    began, summary, nodes = trace.get("began"), trace["summary"], trace["nodes"]
    if trace["outcome"] != "success":
        return Unknown.FAILED
    if not began:
        return Unknown.OLD
    if len(nodes) > MAX_NODES or trace.get("dropped_records"):
        return Unknown.LONG
    if trace["stall_reason"] or summary["unsplit_s"] > 0:
        return Unknown.WAITING
    read = {key for node in nodes for key in node["reads"]}
    if read and began["cached_bytes"] is None:
        return Unknown.CACHE
    sizes = {one["key"]: one["size_bytes"] for one in trace["components"]}
    rates = _read_rates(trace, read)
    on_device = began["device_limit_bytes"] is not None and any(set(node["reads"]) & set(node["computes"]) for node in nodes)
    link = summary["onload_bytes_per_s"] or began["onload_bytes_per_s"]
    if on_device and not link:
        return Unknown.LINK
    steps = tuple(_step(node) for node in nodes)
    components = {key: Component(key, key, "MODEL", sizes[key]) for key in dict.fromkeys(key for step in steps for key in step.components)}
    drive_known = all(key in rates for key in read)
    if not drive_known:
        rates = dict.fromkeys(components, H100.drives[0].read_bytes_per_s)
    different = sorted({rates[key] for key in components})
    drives = tuple(Drive(rate, rate * consumer_share) for rate in different) or (Drive(math.inf, math.inf),)
    cached, loaded = began["cached_bytes"] or {}, began["loaded_bytes"]
    pinned, device = began["pinned_bytes"] or {}, began["device_bytes"] or {}
    rest_s = trace["duration_s"] - sum(node["end_s"] - node["start_s"] for node in nodes)
    return Recorded(
        steps,
        components,
        _machine(began, drives, link if on_device else None, sum(pinned.values())),
        {key: different.index(rates[key]) for key in components},
        Start(_only(cached, components), _only(loaded, components), _only(pinned, components), _only(device, components)),
        rest_s + sum(node["own_s"] for node in nodes),
        trace["duration_s"],
        on_device,
        not any(set(node["reads"]) & set(node["loads"]) for node in nodes),
        drive_known,
    )


def _only(sizes: Mapping[str, int], components: Mapping[str, Component]) -> dict[str, int]:
    return {key: size_bytes for key, size_bytes in sizes.items() if key in components and size_bytes > 0}


def _step(node: Mapping[str, Any]) -> Step:
    compute_s = max(0.0, node["end_s"] - node["start_s"] - node["stall_s"] - node["own_s"])
    passes = max(1, sum(together for *_, together in node["steps"]))
    return Step(node["node_id"], node["class_type"], compute_s, tuple(node["reads"]), passes, node["working_set_bytes"])


def _machine(began: Mapping[str, Any], drives: tuple[Drive, ...], link: float | None, pinned_bytes: int) -> Machine:
    """Without a link there is no device with memory of its own: weights in RAM are used where they are."""
    crossing = link or math.inf
    headroom_bytes = began.get("host_headroom_bytes", 0)  # traces of earlier versions do not tell
    return Machine(
        name="recorded",
        drives=drives,
        device_bytes=(began["device_limit_bytes"] or 0) if link else 0,
        host_bytes=max(0, (began["host_limit_bytes"] or 0) + began["host_reserve_bytes"] + pinned_bytes),
        pinned_bytes_per_s=crossing,
        pageable_bytes_per_s=crossing,
        pinned_back_bytes_per_s=crossing,
        pageable_back_bytes_per_s=crossing,
        page_cache_bytes_per_s=H100.page_cache_bytes_per_s if link else math.inf,
        fresh_pin_bytes_per_s=min(H100.fresh_pin_bytes_per_s, crossing) if link else math.inf,
        budget_floor_bytes=began["host_reserve_bytes"],
        pin_floor_bytes=headroom_bytes // 2,
        idle_floor_bytes=headroom_bytes,
        pins=link is not None,
        freed_bytes_per_s=H100.freed_bytes_per_s if link else math.inf,
        staged_bytes_per_s=H100.staged_bytes_per_s if link else math.inf,
        both_ways_share=H100_LATER.both_ways_share if link else 1.0,
    )


def _read_rates(trace: Mapping[str, Any], keys: set[str]) -> dict[str, float]:
    """Bytes per second by component: this run's own rate where all lies on one drive, else earlier ones'."""
    # sizes over seconds: of files on one drive they differ in their last digits
    known = {key: float(f"{rate:.6g}") for key, rate in trace["began"]["read_bytes_per_s"].items() if rate > 0}
    own = _own_rate([one for one in trace["transfers"] if one["tier"] == "host" and one["end_s"] is not None])
    if own is not None and len(set(known.values())) <= 1:  # all on one drive
        return dict.fromkeys(keys, own)
    return known


def _own_rate(transfers: Sequence[Mapping[str, Any]]) -> float | None:
    """Over the time in which anything was read: transfers of one drive overlap while one ends and the next begins."""
    read_bytes = sum(one["read_bytes"] for one in transfers)
    busy_s, until_s = 0.0, 0.0
    for one in sorted(transfers, key=lambda one: float(one["start_s"])):
        busy_s += max(0.0, one["end_s"] - max(one["start_s"], until_s))
        until_s = max(until_s, one["end_s"])
    return read_bytes / busy_s if read_bytes >= LEAST_BYTES and busy_s > 0 else None
