"""The table that a user looks for: my workflow on my hardware, stock and with the pack, and the waiting that is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from .families import CLASSES, EVERYTHING, NAMES, Part
from .origins import machines, runs
from .results import BEFORE, PACK, STOCK

BEGIN = "<!-- bench: families, written by `python -m residency bench --from … --markdown` -->"
END = "<!-- bench: families, end -->"

HEAD = (
    "workflow",
    "GiB of VRAM / GB of RAM",
    "new text: stock s",
    "with the pack s",
    "foretold s",
    "stock ÷ pack",
    "waiting s, stock → pack",
    "a step s, stock → pack",
    "read GB, stock → pack",
    "first prompt s, stock → pack",
    "another workflow and back s, stock → pack",
    "five at once s, stock → pack",
    "stock's best options s",
    "images",
)
_LEGEND = """\
Medians of wall seconds as a client sees them. New text: prompts in a row, each with another text and seed. Foretold: what the
pack said of them before they were posted, and by how much that was off. Waiting: seconds beyond what the same prompt takes with
everything on the device; a step: of the samplers' nodes, waiting included. Weights are random; sizes, formats and architectures
are those of the published files; memory that the class does not have is held by another process."""

Data = Mapping[str, Any]


def of_families(results: Data) -> dict[str, Any]:
    """The scenarios of families by name."""
    return {name: raw for name, raw in results["scenarios"].items() if raw.get("family")}


def without_families(results: Data) -> dict[str, Any]:
    """The results with all other scenarios."""
    mine = of_families(results)
    kept = ("scenarios", "skipped")
    return {**results, **{key: {name: one for name, one in results[key].items() if name not in mine} for key in kept}}


def section(results: Data) -> str:
    """The table with where it comes from; empty where no family has run."""
    found = rows(results)
    if not found:
        return ""
    scenarios = of_families(results)
    ours = {**results, "scenarios": scenarios}
    lines = [HEAD, ("---", "---", *["---:"] * (len(HEAD) - 3), "---"), *found]
    small = [] if results["size"] == "full" else [f"**Small models ({results['size']}): these figures show that the bench runs.**", ""]
    notes = [f"{name}: {raw['error'].splitlines()[0]}." for name, raw in scenarios.items() if raw["error"]]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*small, *table, "", _LEGEND, "", *runs(ours), "", *machines(ours), *(["", *notes] if notes else [])])


def rows(results: Data) -> list[list[str]]:
    """One row for each family and class of hardware of which any part was measured on both sides, in the order of their use and size."""
    parts: dict[tuple[str, str], dict[Part, Data]] = {}
    for name, raw in of_families(results).items():
        if all(any(run["side"] == side for run in raw["runs"]) for side in (STOCK, PACK)):
            parts.setdefault((raw["family"], raw["hardware"]), {})[Part(name.rpartition("-")[2])] = raw
    classes = [*CLASSES, EVERYTHING]
    order = sorted(parts, key=lambda one: (NAMES.index(one[0]), classes.index(one[1])))
    return [[family, _hardware(hardware), *_cells(parts[family, hardware])] for family, hardware in order]


def _hardware(name: str) -> str:
    return "all of the machine" if name == EVERYTHING else name.replace("/", " / ")


def _cells(parts: Mapping[Part, Data]) -> list[str]:
    text = parts.get(Part.TEXT)
    told: Data = text["summary"] if text else {}
    ratio = told.get("ratio")
    identical = [raw["summary"]["identical"] for raw in parts.values()]
    images = "**DIFFERENT**" if False in identical else "identical" if all(identical) else "–"
    return [
        _number(told.get("stock_s")),
        _number(told.get("pack_s")),
        _foretold(text),
        "–" if ratio is None else f"{ratio:.2f}×",
        _both(told.get("stall_stock_s"), told.get("stall_pack_s")),
        _both(*(_step_s(text, side) for side in (STOCK, PACK))),
        _both(*(_read_gb(text, side) for side in (STOCK, PACK))),
        *(_both(*(_seconds(parts.get(part), side) for side in (STOCK, PACK))) for part in (Part.COLD, Part.SWITCH, Part.QUEUE)),
        _best(text),
        images,
    ]


def _foretold(raw: Data | None) -> str:
    """Seconds that the pack told before each prompt was posted, the median, and by how much they were off, from the least to the most."""
    found = [(run["predicted_s"], run["seconds"]) for run in (raw["runs"] if raw else ()) if run["side"] == PACK and run.get("predicted_s")]
    if not found:
        return "–"
    off = sorted(predicted_s / seconds - 1 for predicted_s, seconds in found)
    return f"{median(predicted_s for predicted_s, _ in found):.2f} ({off[0]:+.0%} to {off[-1]:+.0%})"


def _seconds(raw: Data | None, side: str) -> float | None:
    return None if raw is None else _middle(run["seconds"] for run in raw["runs"] if run["side"] == side)


def _step_s(raw: Data | None, side: str) -> float | None:
    """Of all nodes that pass over a model more than once, together."""
    if raw is None:
        return None
    passes = {node_id: count for told in raw["prompts"].values() for node_id, count in told["passes"].items() if count > 1}
    found = []
    for run in (one for one in raw["runs"] if one["side"] == side):
        took = {node_id: end_s - start_s for node_id, _, start_s, end_s in run["prompts"][0]["nodes"] if node_id in passes}
        if took:
            found.append(sum(took.values()) / sum(passes[node_id] for node_id in took))
    return _middle(found)


def _read_gb(raw: Data | None, side: str) -> float | None:
    runs_ = [] if raw is None else [run["drive_bytes"] for run in raw["runs"] if run["side"] == side]
    return None if None in runs_ or not runs_ else median(runs_) / 1e9


def _best(raw: Data | None) -> str:
    """The quickest of the sides that are neither the pack in any way nor plain stock."""
    if raw is None:
        return "–"
    told = {side: what for side, what in raw.get("ways", {}).items() if side not in (STOCK, PACK, BEFORE) and what.startswith("without")}
    found = [(seconds, side) for side in told if (seconds := _seconds(raw, side)) is not None]
    return "–" if not found else "{:.2f} ({})".format(*min(found))


def _middle(values: Iterable[float]) -> float | None:
    every = list(values)
    return median(every) if every else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _both(one: float | None, other: float | None) -> str:
    return "–" if one is None and other is None else f"{_number(one)} → {_number(other)}"
