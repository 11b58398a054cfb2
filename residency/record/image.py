"""A trace as lanes on one time axis: nodes, transfers, evictions; and as a page of HTML. `png` draws the same.

Lanes: nodes (one box each; striped where it stood still for weights), to the device where anything moved there, to RAM (one box per
transfer, in the colour of its component; transfers that overlap get rows of their own), evictions. Words and colours are the panel's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..units import size

# web/residency.css; white text on them reaches 4.5:1
COLOURS = ("#1e71cf", "#208150", "#954ed3", "#cb337f", "#197c8b", "#63791e", "#6363d8", "#b143b1")
PLAIN = "#717171"
STALL, STALL_DARK = "#f0a020", "#8a4b00"
LANES = {"nodes": "Nodes", "device": "To VRAM", "host": "To RAM", "disk": "To drive"}  # web/words_en.js
INK = "#24292f"

Trace = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Box:
    """One rectangle: `row` counts from the top of its lane, times are seconds. `waits`: (start, seconds) of its stall, in order."""

    row: int
    start_s: float
    end_s: float
    colour: str
    label: str
    hover: str
    waits: tuple[tuple[float, float], ...] = ()

    @property
    def striped_s(self) -> float:
        """The stall at its start: the label goes behind it."""
        return self.waits[0][1] if self.waits and self.waits[0][0] == self.start_s else 0.0


@dataclass(frozen=True, slots=True)
class Lane:
    title: str
    boxes: tuple[Box, ...]
    marks: tuple[tuple[float, str, str], ...] = ()  # (time, colour, hover)

    @property
    def rows(self) -> int:
        return 1 + max((box.row for box in self.boxes), default=0)


def lanes_of(trace: Trace) -> list[Lane]:
    """The lanes of a version 1 trace, top to bottom. Records that have not ended reach to the end of the trace."""
    components = {component["key"]: component for component in trace["components"]}
    colours = {key: COLOURS[index % len(COLOURS)] for index, key in enumerate(components)}
    end = trace["duration_s"]

    def name(key: str) -> str:
        return str(components.get(key, {}).get("name", key))

    nodes = []
    for node in trace["nodes"]:
        computed, loaded = node.get("computes") or [], node.get("loads") or []
        start_s, end_s = node["start_s"], end if node["end_s"] is None else node["end_s"]
        used = [key for key in computed if components.get(key, {}).get("kind") != "LORA"] or computed or loaded
        hover = f"{node['class_type']} ({node['node_id']}): {start_s:.2f} to {end_s:.2f} s"
        if node["stall_s"]:
            hover += f", of it {node['stall_s']:.2f} s stall"
        hover += "".join(f"\n{verb} {name(key)}" for verb, keys in (("loads", loaded), ("computes with", computed)) for key in keys)
        colour = colours.get(used[0], PLAIN) if used else PLAIN
        nodes.append(Box(0, start_s, end_s, colour, node["class_type"], hover, tuple(_waits(node, end_s))))

    lanes = [Lane(LANES["nodes"], tuple(nodes))]
    for tier in ("device", "host"):
        moved = [transfer for transfer in trace["transfers"] if transfer["tier"] == tier]
        if moved or tier == "host":
            lanes.append(Lane(LANES[tier], tuple(_transfers(moved, end, name, colours))))
    if trace["evictions"]:
        marks = tuple(
            (eviction["time_s"], colours.get(eviction["component"], PLAIN), _eviction(name(eviction["component"]), eviction))
            for eviction in trace["evictions"]
        )
        lanes.append(Lane("Evicted", (), marks))
    return lanes


def _waits(node: Trace, end_s: float) -> Iterator[tuple[float, float]]:
    """The times in which a node stood still: at the beginning of each step that waited; the stall of no step, behind the last one, or all
    of it at its start where the trace tells no steps."""
    at_s, left_s = node["start_s"], node["stall_s"]
    for took_s, stall_s, _ in node.get("steps", ()):
        if stall_s > 0:
            yield at_s, stall_s
        at_s, left_s = at_s + took_s, left_s - stall_s
    if (rest_s := min(left_s, end_s - at_s)) > 1e-9:
        yield at_s, rest_s


def _eviction(name: str, eviction: Trace) -> str:
    where = f"from the {eviction['tier']} at {eviction['time_s']:.2f} s"
    return f"evict {name} {where}: {size(eviction['freed_bytes'])}; {eviction['reason']}"


def _transfers(transfers: Sequence[Trace], end: float, name: Any, colours: Mapping[str, str]) -> Iterator[Box]:
    """Boxes in rows: a transfer takes the first row that is free at its start."""
    free_at: list[float] = []
    for transfer in sorted(transfers, key=lambda transfer: float(transfer["start_s"])):
        start_s, end_s = transfer["start_s"], end if transfer["end_s"] is None else transfer["end_s"]
        if not transfer["moved_bytes"] and (transfer["tier"] == "device" or transfer["end_s"] is None or end_s - start_s < 0.001):
            continue  # found in place, or waited for room or for its turn to the end: nothing to see
        row = next((index for index, time_s in enumerate(free_at) if time_s <= start_s + 1e-6), len(free_at))
        free_at[row : row + 1] = [end_s]
        label = name(transfer["component"])
        rate = transfer["moved_bytes"] / (end_s - start_s) if end_s > start_s else 0.0
        hover = f"{label}: {size(transfer['moved_bytes'])}, {start_s:.2f} to {end_s:.2f} s, {size(rate)}/s, {transfer['status']}"
        if transfer.get("reason"):
            hover += f"\n{transfer['reason']}"
        yield Box(row, start_s, end_s, colours.get(transfer["component"], PLAIN), f"{label} · {size(transfer['moved_bytes'])}", hover)


def headline(trace: Trace) -> str:
    """One line: mode, seconds, stall, bytes read ahead."""
    summary = trace["summary"]
    parts = [f"mode {trace['mode']}", f"{trace['duration_s']:.2f} s"]
    if trace["mode"] != "off":
        parts += [f"stall {summary['stall_s']:.2f} s", f"read ahead {size(summary['prefetched_bytes'])}"]
    if summary.get("wasted_bytes"):
        parts.append(f"not used {size(summary['wasted_bytes'])}")
    if trace["outcome"] not in ("success", "running"):
        parts.append(trace.get("outcome_reason") or trace["outcome"])
    return "  ·  ".join(parts)


def text_colour(background: str) -> str:
    """Black or white, whichever reads better. Luma: ITU-R BT.601."""
    red, green, blue = (int(background[index : index + 2], 16) for index in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


_STYLE = """
body{font:14px system-ui,sans-serif;color:#24292f;margin:2em auto;max-width:1180px;padding:0 1em}h2{font-size:1.1em;margin:1.6em 0 .4em}
svg{width:100%;height:auto;background:#fff}rect:hover{stroke:#24292f;stroke-width:1.5}table{border-collapse:collapse;margin-top:1em}
td,th{padding:.25em .8em;border-bottom:1px solid #d8dee4;text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
"""


def html(traces: Sequence[tuple[str, Trace]]) -> str:
    """The same picture as one HTML page without scripts or outside files; every box tells its story when hovered."""
    span_s = max([1e-3, *(trace["duration_s"] for _, trace in traces)])
    body = "".join(_section(index, title, trace, span_s) for index, (title, trace) in enumerate(traces))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Residency timeline</title><style>{_STYLE}</style>'
        f"<h1>Residency timeline</h1>{body}</html>\n"
    )


def _section(index: int, title: str, trace: Trace, span_s: float) -> str:
    left, width, row_px = 110, 1150, 30
    scale = (width - left) / span_s
    parts, top = [], 0
    for lane in lanes_of(trace):
        parts.append(f'<text x="0" y="{top + lane.rows * row_px / 2 + 5:.0f}" font-size="13">{escape(lane.title)}</text>')
        for box in lane.boxes:
            x, y, length = left + box.start_s * scale, top + box.row * row_px + 3, max((box.end_s - box.start_s) * scale, 1)
            hover = f"<title>{escape(box.hover)}</title>"
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{row_px - 6}" fill="{box.colour}">{hover}</rect>')
            for wait_s, waited_s in box.waits:
                place = f'x="{left + wait_s * scale:.1f}" y="{y}" width="{waited_s * scale:.1f}" height="{row_px - 6}"'
                parts.append(f'<rect {place} fill="url(#stall{index})">{hover}</rect>')
            if length > 7 * len(box.label):
                parts.append(
                    f'<text x="{x + length / 2:.1f}" y="{y + 16}" font-size="12" text-anchor="middle" pointer-events="none" '
                    f'fill="{text_colour(box.colour)}">{escape(box.label)}</text>'
                )
        for time_s, colour, hover in lane.marks:
            x = left + time_s * scale
            shape = f'd="M{x - 6:.1f} {top + 8}h12l-6 12z" fill="{colour}" stroke="{INK}" stroke-width=".5"'
            parts.append(f"<path {shape}><title>{escape(hover)}</title></path>")
        top += lane.rows * row_px
    axis = "".join(
        f'<line x1="{left + second * scale:.1f}" x2="{left + second * scale:.1f}" y1="0" y2="{top}" stroke="#e6eaee"/>'
        f'<text x="{left + second * scale:.1f}" y="{top + 15}" font-size="12" text-anchor="middle">{second:g} s</text>'
        for second in ticks(span_s)
    )
    stripes = (
        f'<defs><pattern id="stall{index}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="6" height="6" fill="{STALL_DARK}"/><rect width="3" height="6" fill="{STALL}"/></pattern></defs>'
    )
    heading = f"{title}  ·  {headline(trace)}" if title else headline(trace)
    return (
        f'<h2>{escape(heading)}</h2><svg viewBox="0 0 {width + 20} {top + 22}">{stripes}{axis}{"".join(parts)}</svg>'
        f"<p>Striped: the node waits for weights.</p>{_table(trace)}"
    )


def ticks(span_s: float) -> list[float]:
    step = next(step for power in range(-3, 7) for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if span_s / step <= 12)
    return [round(index * step, 6) for index in range(int(span_s / step) + 1)]


def _table(trace: Trace) -> str:
    read: dict[str, int] = {}
    for transfer in trace["transfers"]:
        read[transfer["component"]] = read.get(transfer["component"], 0) + transfer["moved_bytes"]
    rows = "".join(
        f"<tr><td>{escape(component['name'])}</td><td>{escape(component['kind'])}</td>"
        f'<td class="n">{size(component["size_bytes"])}</td><td class="n">{size(read.get(component["key"], 0))}</td></tr>'
        for component in trace["components"]
    )
    return f'<table><tr><th>component<th>kind<th class="n">size<th class="n">read ahead</tr>{rows}</table>'
