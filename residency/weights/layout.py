"""A component with its bytes in another order: first those that the process holds, then those that it would have to read again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..core.component import Component, Extent

Range = tuple[int, int]
"""(start, end), in bytes of a file."""
_Piece = tuple[str, int, int]  # path, start, end


def held_first(component: Component, missing: Mapping[str, Iterable[Range]]) -> tuple[Component, int]:
    """The component with its `missing` ranges, by path, at its end, each part in its old order, and the bytes in front of that.

    Missing ranges may touch and overlap; any part of them outside the component counts for nothing.
    """
    gaps = {path: _joined(ranges) for path, ranges in missing.items()}
    held: list[_Piece] = []
    rest: list[_Piece] = []
    for extent in component.extents:
        _divide(extent, gaps.get(extent.path, []), held, rest)
    held_bytes = sum(end - start for _, start, end in held)
    return replace(component, extents=tuple(Extent(path, start, end - start) for path, start, end in (*held, *rest))), held_bytes


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """Disjoint ones that do not touch, in order."""
    found: list[Range] = []
    last_start = last_end = -1
    for start, end in sorted(ranges):
        if start > last_end:
            if last_end >= 0:
                found.append((last_start, last_end))
            last_start, last_end = start, end
        elif end > last_end:
            last_end = end
    if last_end >= 0:
        found.append((last_start, last_end))
    return found


def _divide(extent: Extent, gaps: list[Range], held: list[_Piece], rest: list[_Piece]) -> None:
    path, at = extent.path, extent.start
    end = at + extent.size_bytes
    for number in range(max(0, bisect_right(gaps, (at,)) - 1), len(gaps)):
        start, stop = gaps[number]
        if start >= end:
            break
        start, stop = max(start, at), min(stop, end)
        if start >= stop:
            continue
        if at < start:
            _append(held, path, at, start)
        _append(rest, path, start, stop)
        at = stop
    if at < end:
        _append(held, path, at, end)


def _append(pieces: list[_Piece], path: str, start: int, end: int) -> None:
    if pieces and pieces[-1][2] == start and pieces[-1][0] == path:
        pieces[-1] = (path, pieces[-1][1], end)
    else:
        pieces.append((path, start, end))
