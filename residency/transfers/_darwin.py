"""The page cache on macOS: mincore to ask, msync(MS_INVALIDATE) on a shared mapping to drop, as vmtouch does. Not run on a Mac yet."""

from __future__ import annotations

from . import _mincore

_MS_INVALIDATE = 2  # <sys/mman.h>


def cached_in(fd: int, start: int, size_bytes: int) -> int | None:
    return _mincore.resident_bytes(fd, start, size_bytes)


def drop_in(fd: int, start: int, size_bytes: int) -> None:
    _mincore.invalidate(fd, start, size_bytes, _MS_INVALIDATE)
