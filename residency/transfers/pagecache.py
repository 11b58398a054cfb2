"""The page cache of this system behind one small interface: ask, drop, fill. An answer that cannot be known is None, never a guess.

A cache that is not the kernel's (ZFS's ARC) is invisible here: its files look uncached, and reading them again is cheap.
The costs of asking are in _linux.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from mmap import PAGESIZE
from pathlib import Path

from ..core.component import Extent
from . import _system


def open_file(path: str) -> int:
    """A handle of a regular file. OSError, naming the path, when there is none."""
    return _system.current.open(path)


def close_file(handle: int) -> None:
    _system.current.close(handle)


def file_bytes(handle: int) -> int:
    return _system.current.file_bytes(handle)


def cached_bytes(extent: Extent) -> int | None:
    """Bytes of the extent that are in the page cache now; those that the file lacks are not. None: this process cannot know.

    A file that has vanished has 0 bytes cached: nothing can be read from it any more.
    """
    try:
        handle = open_file(extent.path)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    try:
        return cached_in(handle, extent.start, extent.size_bytes)
    finally:
        close_file(handle)


def cached_around(extents: Iterable[Extent], at_bytes: int) -> tuple[int, int] | None:
    """Bytes of the extents, taken as one sequence, that are in the page cache now: of the first `at_bytes`, and behind them. Each file is
    opened once.

    None also where asking takes long: by mincore 58 GB of weights take a second.
    """
    files: dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    for extent in extents:
        start, end = extent.start, extent.start + extent.size_bytes
        middle = min(end, start + at_bytes)
        at_bytes -= middle - start
        before, behind = files.setdefault(extent.path, ([], []))
        if start < middle:
            before.append((start, middle))
        if middle < end:
            behind.append((middle, end))
    before_bytes = behind_bytes = 0
    try:
        for path, (before, behind) in files.items():
            try:
                handle = open_file(path)
            except FileNotFoundError:
                continue
            try:
                counted = _system.current.counted_in(handle, before + behind)
            finally:
                close_file(handle)
            before_bytes += sum(counted[: len(before)])
            behind_bytes += sum(counted[len(before) :])
    except OSError:
        return None
    return before_bytes, behind_bytes


def cached_in(handle: int, start: int, size_bytes: int) -> int | None:
    """Like cached_bytes, for a file that is already open."""
    try:
        return _system.current.cached_in(handle, start, size_bytes)
    except OSError:  # a file system that cannot be mapped
        return None


def announce_reads(descriptor: int, ranges: Sequence[tuple[int, int]]) -> None:
    """Each (start, end) of the open file is about to be read by others: begin with all at once, where the system can. 600 ranges take 8 ms,
    0.7 ms where they are cached. Raises OSError."""
    _system.current.announce_reads(descriptor, ranges)


def drop(extent: Extent) -> None:
    """Ask the kernel to forget the extent's whole pages. A page shared with a neighbouring range stays; so do mapped and dirty ones.

    OSError when the file cannot be opened.
    """
    handle = open_file(extent.path)
    try:
        size_bytes = file_bytes(handle)
        end = extent.start + extent.size_bytes
        end = end - end % PAGESIZE if end < size_bytes else -(-size_bytes // PAGESIZE) * PAGESIZE
        start = -(-extent.start // PAGESIZE) * PAGESIZE
        if start < end:
            _system.current.drop_in(handle, start, end - start)
    finally:
        close_file(handle)


def drop_files(files: Iterable[Path]) -> None:
    """Drop whole files, where the system lets us; dirty pages are written first, for they would stay. OSError like `drop`."""
    for path in files:
        if os.name == "posix":  # Windows syncs only files open for writing, and drops nothing
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        drop(Extent(str(path), 0, path.stat().st_size))


def not_cached_bytes(files: Iterable[Path]) -> int | None:
    """Bytes of the files that are not in the page cache; None where the system does not tell."""
    missing_bytes = 0
    for path in files:
        size_bytes = path.stat().st_size
        there_bytes = cached_bytes(Extent(str(path), 0, size_bytes))
        if there_bytes is None:
            return None
        missing_bytes += size_bytes - there_bytes
    return missing_bytes


def read_into_cache(handle: int, start: int, size_bytes: int, buffer: bytearray, *, copies: bool = False) -> int:
    """Read the range, so that its pages are cached. Returns the bytes read: fewer at the end of the file. It goes through `buffer`, of any
    size, where there is no other way, or `copies`: of a small range Linux then reads on behind it, 8 MiB and not 128 KiB.

    Where the system can, the range is read in one call that goes through the buffer again and again: a thread that comes back from a call
    waits for the interpreter, 5 ms and more while another one computes.
    """
    view, system = memoryview(buffer), _system.current
    read = system.read_at if copies else system.bring_in
    done = 0
    while done < size_bytes:
        count = read(handle, view, start + done, size_bytes - done)
        if count == 0:
            break
        done += count
    return done
