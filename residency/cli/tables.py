"""Aligned tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines; the first `left` columns are flush left, the others right. Trailing spaces are cut."""
    shown = [head, *rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    return ["  ".join(_cell(cell, widths[at], at < left) for at, cell in enumerate(row)).rstrip() for row in shown]


def _cell(text: str, width: int, flush_left: bool) -> str:
    return text.ljust(width) if flush_left else text.rjust(width)


def seconds(value_s: float) -> str:
    """Two decimals below ten seconds, one above."""
    return f"{value_s:.2f} s" if value_s < 9.995 else f"{value_s:.1f} s"
