"""A component with its bytes in another order: first those that the process holds, then those that it would have to read again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..core.component import Component, Extent


def held_first(component: Component, missing: Iterable[Extent]) -> tuple[Component, int]:
    """The component with its `missing` ranges at its end, each part in its old order, and the bytes in front of that.

    Missing ranges may touch and overlap; any part of them outside the component counts for nothing.
    """
    gaps = _joined(missing)
    held: list[Extent] = []
    rest: list[Extent] = []
    for extent in component.extents:
        for is_missing, piece in _divided(extent, gaps.get(extent.path, [])):
            _append(rest if is_missing else held, piece)
    held_bytes = sum(extent.size_bytes for extent in held)
    return replace(component, extents=(*held, *rest)), held_bytes


def _joined(ranges: Iterable[Extent]) -> dict[str, list[tuple[int, int]]]:
    """By path: disjoint (start, end) in order."""
    found: dict[str, list[tuple[int, int]]] = {}
    for extent in sorted(ranges, key=lambda one: (one.path, one.start)):
        mine = found.setdefault(extent.path, [])
        end = extent.start + extent.size_bytes
        if mine and extent.start <= mine[-1][1]:
            mine[-1] = (mine[-1][0], max(mine[-1][1], end))
        else:
            mine.append((extent.start, end))
    return found


def _divided(extent: Extent, gaps: list[tuple[int, int]]) -> Iterator[tuple[bool, Extent]]:
    at, end = extent.start, extent.start + extent.size_bytes
    for start, stop in gaps[max(0, bisect_right(gaps, (at,)) - 1) :]:
        if start >= end:
            break
        start, stop = max(start, at), min(stop, end)
        if start >= stop:
            continue
        if at < start:
            yield False, Extent(extent.path, at, start - at)
        yield True, Extent(extent.path, start, stop - start)
        at = stop
    if at < end:
        yield False, Extent(extent.path, at, end - at)


def _append(extents: list[Extent], piece: Extent) -> None:
    if extents and extents[-1].path == piece.path and extents[-1].start + extents[-1].size_bytes == piece.start:
        extents[-1] = replace(extents[-1], size_bytes=extents[-1].size_bytes + piece.size_bytes)
    else:
        extents.append(piece)
