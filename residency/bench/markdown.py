"""Results as text: the table for a terminal, and the section of docs/benchmarks.md between its two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import family_table, link, places
from .origins import machines, measured, runs
from .results import SIDES
from .scenarios import Target

BEGIN, END = "<!-- bench: written by `python -m residency bench --markdown` -->", "<!-- bench: end -->"

Data = Mapping[str, Any]


class MarkdownError(Exception):
    """A file without the marks. The message names it."""


def insert(path: Path, section: str, begin_mark: str = BEGIN, end_mark: str = END) -> None:
    """Put the section between the file's marks. Raises MarkdownError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MarkdownError(f"{path} cannot be read: {error}") from error
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise MarkdownError(f"{path} has no place for the table: put the lines {begin_mark!r} and {end_mark!r} into it")
    path.write_text(f"{before}{begin_mark}\n{section.strip()}\n{end_mark}{after}", encoding="utf-8")


def section(results: Data) -> str:
    """The runs, machines, tables, and scenarios not run to their end."""
    head = [*runs(results), "", "\n\n".join(machines(results)), "", "\n\n".join(measured(results)), ""]
    if results["size"] != "full":
        head = [f"**Small random models ({results['size']}): these figures show that the bench runs, not what the pack gains.**", "", *head]
    notes = _notes(results)
    rate = link.line(results)
    told = ["", f"{rate[0].upper()}{rate[1:]}."] if rate else []
    clocks = _clocks(results)
    told += ["", clocks] if clocks else []
    return "\n".join([*head, *table(results), *told, "", _LEGEND, *_every_prompt(results), *(["", *notes] if notes else [])])


def _notes(results: Data) -> list[str]:
    """A sentence for each scenario that was not run to its end."""
    left = [f"{name} was not run to its end: {reason}." for name, reason in results["skipped"].items()]
    return left + [f"{name}: {raw['error'].splitlines()[0]}." for name, raw in results["scenarios"].items() if raw["error"]]


_LEGEND = """\
Medians of wall seconds as a client sees them, from posting the queue to the last prompt's `execution_success`, with the least, the most
and the count. Compute: the same prompts with everything on the device. Bound: no schedule can be faster with this drive and link; a warm
prompt's bound lets the tiers begin with whichever bytes suit it best. Stall: wall minus compute. Link: the rate of the pack's bulk copies
to the device, timed by the device's own events; a dash where nothing was copied. Read: GB that the middle prompt of each side had read from
the drive."""

_EVERY = """\
Each prompt by its place on its server: seconds, those that the pack foretold (`POST /residency/estimate`), and what the server had
read from the drive since the prompt before it ended (the kernel's count for that process: page faults and read-ahead with it, the page
cache's answers not). Several rounds: the median of each place."""


def _every_prompt(results: Data) -> list[str]:
    """A table with one row a side of each scenario that knows its prompts' places, and the sides' descriptions."""
    found = places.rows(results)
    if not found:
        return []
    first = places.head(results, lambda place: f"prompt {place}")
    lines = [first, ["---", "---", "---:", "---:", *["---:"] * (len(first) - 4)], *found]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), "", _EVERY, *_sides(results)]


def _sides(results: Data) -> list[str]:
    told = {f"{side}: {what}" for raw in results["scenarios"].values() for side, what in raw.get("ways", {}).items()}
    return ["", f"Sides: {'; '.join(sorted(told))}."] if told else []


def table(results: Data) -> list[str]:
    """The lines of a Markdown table, one row a scenario that ran on both sides or tells a compute time."""
    columns = (
        "scenario",
        "stock s",
        "pack s",
        "stock ÷ pack",
        "compute s",
        "bound s",
        "pack ÷ bound",
        "stall s, stock → pack",
        "read GB, stock → pack",
        "link, share of pinned",
        "images",
        "target",
    )
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * 9 + " --- | --- |"]
    for name, raw in results["scenarios"].items():
        told = raw["summary"]
        cells = [
            f"{name}: {raw['what']}",
            *(_seconds(told, side) for side in SIDES),
            _number(told["ratio"], "×"),
            _number(told["compute_s"]),
        ]
        cells += [
            _number(told["bound_s"]),
            _number(told["over_bound"]),
            _stalls(told),
            _reads(told),
            link.cell(told),
        ]
        cells += [_images(raw), _target(raw)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _clocks(results: Data) -> str:
    """The device's clock on both sides of each scenario: a difference of so much is none between the sides."""
    seen = {name: raw["summary"]["device_mhz"] for name, raw in results["scenarios"].items()}
    told = [f"{name} {stock:.0f} and {pack:.0f}" for name, both in seen.items() if (stock := both["stock"]) and (pack := both["pack"])]
    return f"Clock of the device, MHz, stock and pack: {', '.join(told)}." if told else ""


def _seconds(told: Data, side: str) -> str:
    middle, spread = told[f"{side}_s"], told["spread_s"][side]
    if middle is None:
        return "–"
    return f"{middle:.2f}" if told["runs"][side] == 1 else f"{middle:.2f} ({spread[0]:.2f}–{spread[1]:.2f}, {told['runs'][side]})"


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:.2f}{unit}"


def _stalls(told: Data) -> str:
    """The seconds of each side beyond compute, and those of the pack's that its trace tells as waiting for weights."""
    both = f"{_number(told['stall_stock_s'])} → {_number(told['stall_pack_s'])}"
    return both if told.get("stall_told_s") is None else f"{both} ({_number(told['stall_told_s'])} told)"


def _reads(told: Data) -> str:
    both = [places.read(told, side) for side in SIDES]
    return "–" if both == ["–", "–"] else " → ".join(both)


def _images(raw: Data) -> str:
    if raw["summary"]["identical"] is None:
        return "blank" if any(run["blank"] for run in raw["runs"]) else "–"
    return "identical" if raw["summary"]["identical"] else "**DIFFERENT**"


def _target(raw: Data) -> str:
    return f"{Target(**raw['target'])}: " + {True: "reached", False: "**missed**", None: "–"}[raw["summary"]["reached"]]


def terminal(results: Data) -> str:
    """The same for people at a terminal."""
    first = (
        "",
        "stock s",
        "pack s",
        "ratio",
        "compute",
        "bound",
        "÷ bound",
        "stall s",
        "read GB",
        "link, share of pinned",
        "images",
        "target",
    )
    rows: list[Sequence[str]] = [first]
    for name, raw in results["scenarios"].items():
        told = raw["summary"]
        stalls = _stalls(told)
        middle = (_number(told["stock_s"]), _number(told["pack_s"]), _number(told["ratio"], "×"), _number(told["compute_s"]))
        bounds = (_number(told["bound_s"]), _number(told["over_bound"]), stalls, _reads(told), link.cell(told))
        rows.append((name, *middle, *bounds, _images(raw).strip("*"), _target(raw).replace("*", "")))
    lines = _aligned(rows) if len(rows) > 1 else []
    if every := places.rows(results):
        lines += ["", *_aligned([places.head(results), *every])]
    if of_families := family_table.rows(results):
        # one column each: a line of thirteen cells is wider than any terminal
        lines += ["", *_aligned([*zip(family_table.HEAD, *of_families, strict=True)])]
    lines += ["", *notes] if (notes := _notes(results)) else []
    counts = [sum(raw["summary"]["reached"] is wanted for raw in results["scenarios"].values()) for wanted in (True, False)]
    rate = link.line(results)
    lines += ["", *machines(results), *measured(results), *([rate] if rate else []), f"targets: {counts[0]} reached, {counts[1]} missed"]
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
