"""Curves below each other on one axis, as SVG for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, BETWEEN, BOTTOM = 900, 110, 70, 20, 44, 34, 40
INK, LINE, GRID = "#24292f", "#0969da", "#d8dee4"


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) in the order of x; y is drawn from 0."""

    title: str
    points: Sequence[tuple[float, float]]


def draw(title: str, axis: str, curves: Sequence[Curve]) -> str:
    """The picture. Raises ValueError for a curve without points."""
    last = max(x for curve in curves for x, _ in curve.points) or 1
    height = TOP + len(curves) * (PANEL + BETWEEN) + BOTTOM - BETWEEN

    def at(x: float) -> float:
        return LEFT + x / last * (WIDTH - LEFT - RIGHT)

    def text(x: float, y: float, words: str, size: int = 13, anchor: str = "start") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{escape(words)}</text>'

    parts = [f'<rect width="{WIDTH}" height="{height}" fill="white"/>', text(LEFT, 22, title, 15)]
    top = TOP
    for curve in curves:
        highest = max(y for _, y in curve.points) or 1
        bottom = top + PANEL
        parts.append(f'<path d="M{LEFT} {top}H{WIDTH - RIGHT}M{LEFT} {bottom}H{WIDTH - RIGHT}" stroke="{GRID}"/>')
        parts += [text(LEFT - 8, top + 5, f"{highest:,.0f}", 12, "end"), text(LEFT - 8, bottom + 4, "0", 12, "end")]
        parts.append(text(LEFT, top - 5, curve.title))
        line = " ".join(f"{at(x):.1f},{bottom - y / highest * PANEL:.1f}" for x, y in curve.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
        top = bottom + BETWEEN
    parts += [text(LEFT, top - BETWEEN + 20, "0", 12, "middle"), text(WIDTH - RIGHT, top - BETWEEN + 20, f"{last:,.0f} {axis}", 12, "end")]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, *parts, "</svg>", ""])
