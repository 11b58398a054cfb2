"""Results as JSON-ready data: the raw times of every prompt, and the summaries made of them (medians, bounds, ratios, targets).

`summarise` needs nothing but the raw part, so that a file can be read, merged with others and summarised again anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from ..simulate.bound import Lane, bound_once_s
from ..simulate.workload import Step
from . import link, places
from .origins import OWN
from .scenarios import Target, Temperature, Workflow

VERSION = 1
STOCK, PACK, BEFORE = "stock", "pack", "before"
SIDES = (STOCK, PACK)  # what a scenario's figures are made of; others stand beside them

Data = dict[str, Any]
_SAME = ("precision", "family", "queue", "limits", "arguments", "temperature")  # of a scenario, where two runs of it may stand side by side
Node = tuple[str, str, float, float]  # id, class, start and end in seconds


class ResultsError(Exception):
    """A results file that cannot be used. The message names it and says why."""


def read(paths: Iterable[Path]) -> Data:
    """The results of these files as one, which can be written and read again. Raises ResultsError."""
    merged: Data = {}
    for path in paths:
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ResultsError(f"{path} is no results file of the bench: {error}") from error
        if not isinstance(one, dict) or one.get("version") != VERSION or "scenarios" not in one:
            raise ResultsError(f"{path} is no results file of the bench, version {VERSION}")
        if merged and one["size"] != merged["size"]:
            raise ResultsError(f"{path} has models of size {one['size']}, the file before it {merged['size']}: they do not go together")
        merged = _joined(merged, one)
    if not merged:
        raise ResultsError("no results file was given")
    return summarise(merged)


def to_resume(path: Path, size: str, machine: Mapping[str, Any]) -> Data:
    """The results of an earlier run to go on with, "drive" and "scenarios"; empty where it has left no file.

    Raises ResultsError for a file that is none, or of models of another size, or of another machine: runs here could not be compared with
    it.
    """
    if not path.exists():
        return {"drive": {}, "scenarios": {}}
    before = read([path])
    if before["size"] != size:
        raise ResultsError(f"{path} has models of size {before['size']}, not {size}: give another --output-directory")
    for key in ("boot", "device", "comfyui", "pack"):
        if before["machine"].get(key) != machine.get(key):
            was = f"{key} {before['machine'].get(key)}, now {machine.get(key)}"
            raise ResultsError(f"{path} cannot be resumed, it is of another machine or version ({was}): give another --output-directory")
    return {key: before[key] for key in ("drive", "scenarios")}


def _joined(before: Data, one: Data) -> Data:
    """A scenario that both have is taken from the second, with the keys of its run, and beside it the sides that only the first one has
    measured, where both are of one machine since its last start; nobody misses what only one of them has skipped."""
    kept, skipped = before.get("scenarios", {}), before.get("skipped", {})
    come = {name: _beside(kept.get(name), {**{key: one[key] for key in OWN}, **raw}) for name, raw in one["scenarios"].items()}
    left = {name: why for name, why in skipped.items() if name not in come}
    left |= {name: why for name, why in one["skipped"].items() if name in come or name not in kept}
    return {**one, "scenarios": {**kept, **come}, "skipped": left}


def _beside(before: Data | None, raw: Data) -> Data:
    if (
        before is None
        or any(before.get(key) != raw.get(key) for key in _SAME)
        or before["machine"].get("boot") != raw["machine"].get("boot")
    ):
        return raw
    others = [run for run in before["runs"] if run["side"] not in raw["ways"]]
    if not others:
        return raw
    ways = {side: way for side, way in before["ways"].items() if side not in raw["ways"]}
    return {**raw, "runs": [*others, *raw["runs"]], "ways": {**ways, **raw["ways"]}, "command": f"{before['command']}; {raw['command']}"}


def write(results: Data, path: Path, indent: int | None = 1) -> None:
    """Whole or not at all: a run that is killed leaves the last complete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=indent) + "\n", encoding="utf-8")
    os.replace(part, path)


def summarise(results: Data) -> Data:
    """The same results, scenarios by name, with a fresh "summary" in each."""
    scenarios = {name: {**raw, "summary": summary(raw, results)} for name, raw in sorted(results["scenarios"].items())}
    return {**results, "scenarios": scenarios}


def sides(runs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Stock and the pack, between them the others that have run."""
    return tuple(dict.fromkeys((STOCK, *(run["side"] for run in runs if run["side"] != PACK), PACK)))


def summary(raw: Mapping[str, Any], results: Mapping[str, Any]) -> Data:
    """Medians of both sides, the bound, the stall beyond compute, and whether the target is reached; None for anything unknown."""
    told: Data = {"sides": places.sides(raw["runs"], sides(raw["runs"]))}
    seconds = {side: [run["seconds"] for run in raw["runs"] if run["side"] == side] for side in SIDES}
    stock_s, pack_s = (median(seconds[side]) if seconds[side] else None for side in SIDES)
    compute_s, least_s = _bounds(raw, results)
    told |= {"stock_s": stock_s, "pack_s": pack_s, "runs": {side: len(seconds[side]) for side in SIDES}}
    told["spread_s"] = {side: [min(seconds[side]), max(seconds[side])] if seconds[side] else None for side in SIDES}
    told |= {"compute_s": compute_s, "bound_s": least_s}
    told["stall_stock_s"] = _less(stock_s, compute_s)
    told["stall_pack_s"] = _less(pack_s, compute_s)
    told["stall_told_s"] = _told_stall(raw["runs"])
    told["device_mhz"] = {side: _mhz(raw["runs"], side) for side in SIDES}
    told["ratio"] = stock_s / pack_s if stock_s and pack_s else None
    told["over_bound"] = pack_s / least_s if pack_s and least_s else None
    told |= link.summary(raw)
    told["identical"] = identical(raw["runs"])
    told["reached"] = False if told["identical"] is False else reached(Target(**raw["target"]), told)
    return told


def _told_stall(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """The stall that the pack's own traces tell of the whole queue, the middle one of its runs: beside the time beyond compute, it says how
    much of that was waiting for weights."""
    whole = [run["pack"] for run in runs if run["side"] == PACK and run.get("pack")]
    told = [sum(one["stall_s"] for one in pack) for pack in whole if all("other_s" in one for one in pack)]  # older ones told less
    return median(told) if told else None


def _mhz(runs: Iterable[Mapping[str, Any]], side: str) -> float | None:
    seen = [run["device_mhz"] for run in runs if run["side"] == side and run.get("device_mhz")]
    return median(seen) if seen else None


def _less(whole_s: float | None, part_s: float | None) -> float | None:
    return None if whole_s is None or part_s is None else whole_s - part_s


def identical(runs: Iterable[Mapping[str, Any]]) -> bool | None:
    """Whether all sides drew the same pixels and wrote the same words for every prompt that several have run; None when there is none, or
    one is a plain area."""
    drawn: dict[int, dict[str, str | None]] = {}
    for run in runs:
        drawn.setdefault(run["number"], {})[run["side"]] = None if run["blank"] else " ".join([run["digest"], *run.get("words", ())])
    several = [set(one.values()) for one in drawn.values() if len(one) > 1]
    if any(len(found) > 1 for found in several):
        return False
    return None if not several or {None} in several else True


def reached(target: Target, told: Mapping[str, Any]) -> bool | None:
    """Whether a summary meets the target; None when it cannot be told."""
    stalls = told["stall_stock_s"], told["stall_pack_s"]
    gone = 1 - stalls[1] / stalls[0] if None not in stalls and stalls[0] > 0 else None
    mine: Data = told.get("sides", {}).get(PACK, {})
    least, most_s = (mine.get("least_ratio"), mine.get("most_s")) if target.every else (told["ratio"], told.get("pack_s"))
    at_least = ((least, target.ratio), (gone, target.stall_gone))
    at_most = ((told["over_bound"], target.over_bound), (most_s, target.pack_s), (mine.get("most_drive_bytes"), target.drive_bytes))
    asked = [(found, wanted, sign) for pairs, sign in ((at_least, 1), (at_most, -1)) for found, wanted in pairs if wanted is not None]
    if any(found is not None and sign * found < sign * wanted for found, wanted, sign in asked):
        return False
    return None if any(found is None for found, _, _ in asked) else True


# --- the bound ---


def _bounds(raw: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(compute, bound) in seconds of the whole queue: each prompt's own bound holds for any state that the ones before it left behind."""
    compute_s = least_s = 0.0
    lanes = _lanes(raw)
    for workflow in raw["queue"]:
        reference = _reference(results, raw, Workflow(workflow).computes_like.value)
        if reference is None:
            return None, None
        whole_s, nodes = reference
        told = raw["prompts"][workflow]
        steps = [
            Step(node_id, class_type, end_s - start_s, tuple(told["uses"].get(node_id, ())), told["passes"].get(node_id, 1))
            for node_id, class_type, start_s, end_s in nodes
        ]
        around_s = whole_s - sum(step.compute_s for step in steps)  # posting, queueing, answering
        compute_s += whole_s
        least_s += bound_once_s(steps, raw["sizes"], lanes) + around_s
    return compute_s, least_s


def _lanes(raw: Mapping[str, Any]) -> list[Lane]:
    """The drive and the link with the bytes that each may have behind it: none when cold, else as much as the tiers hold.

    Of the machine that the scenario itself ran on: merged files can come from several, and no two drives are alike.
    """
    machine, drive = raw["machine"], raw["drive"]
    warm = raw["temperature"] == Temperature.WARM.value
    on_device = raw["limits"]["device_free_bytes"] or machine.get("device_bytes", 0)
    in_host = raw["limits"]["host_free_bytes"] or machine.get("ram_available_bytes", 0)
    lanes = []
    if drive:
        lanes.append(Lane(max(drive.values()), on_device + in_host if warm else 0))
    if machine.get("pinned_bytes_per_s"):
        lanes.append(Lane(machine["pinned_bytes_per_s"], on_device if warm else 0))
    return lanes


def _reference(results: Mapping[str, Any], one: Mapping[str, Any], workflow: str) -> tuple[float, list[Node]] | None:
    """The quickest run of either side with everything resident: seconds, and its nodes. None without one.

    On the same kind of device: merged files can come from several, and none tells how long another computes.
    """
    runs = [
        run
        for raw in results["scenarios"].values()
        if raw["resident"] and raw["precision"] == one["precision"] and raw["queue"] == [workflow]
        if raw["machine"].get("device") == one["machine"].get("device")
        for run in raw["runs"]
    ]
    if not runs:
        return None
    quickest = min(runs, key=lambda run: float(run["seconds"]))
    return quickest["seconds"], quickest["prompts"][0]["nodes"]
