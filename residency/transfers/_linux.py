"""The page cache on Linux: cachestat (6.5 or newer) or mincore to ask, posix_fadvise to drop.

cachestat walks folios where mincore walks pages: 2 us against 190 us for 8 MiB, 0.2 ms against 76 ms for 4 GiB in the cache.
"""

from __future__ import annotations

import ctypes
import os

from . import _mincore
from ._mincore import PAGE_BYTES
from ._portable import Portable

_SYS_CACHESTAT = 451  # the same number on every architecture that Python runs on but alpha


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):  # include/uapi/linux/mman.h, struct cachestat
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.POINTER(_Range), ctypes.POINTER(_Counts), ctypes.c_uint)


class Linux(Portable):
    name = "Linux"

    def cached_in(self, handle: int, start: int, size_bytes: int) -> int | None:
        """Since Linux 5.2 (commit 134fca9063ad, mm/mincore.c `can_do_mincore`) mincore reports every page of a file that the process
        neither owns nor may write as resident: an answer that must not be believed. cachestat refuses instead.
        """
        try:
            return counted_bytes(handle, start, size_bytes)
        except OSError:  # an older kernel, a container's system-call filter, or not our file
            return _mincore.resident_bytes(handle, start, size_bytes) if _may_know(handle) else None

    def use_again(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> None:
        """A page that was read once lies on the list that is reclaimed first, one that was read twice does not (mm/swap.c,
        folio_mark_accessed). With 2 GiB for 0.9 GiB read twice by somebody else and two such files read ahead, of the first 0.23 GiB
        were left when the second was there; with this all of both."""
        end = offset + size_bytes
        while offset < end and (count := self.read_at(handle, view, offset, end - offset)):
            offset += count

    def counted_in(self, handle: int, start: int, size_bytes: int) -> int:
        return counted_bytes(handle, start, size_bytes)

    def drop_in(self, handle: int, start: int, size_bytes: int) -> None:
        """Dirty pages and pages that some process has mapped and touched stay: the kernel skips them without a word."""
        os.posix_fadvise(handle, start, size_bytes, os.POSIX_FADV_DONTNEED)


def counted_bytes(fd: int, start: int, size_bytes: int) -> int:
    """Bytes of the range that are cached, by cachestat alone. OSError where it is missing or refused."""
    end = min(start + size_bytes, os.fstat(fd).st_size)
    if start >= end:
        return 0
    base, stop = start - start % PAGE_BYTES, -(-end // PAGE_BYTES) * PAGE_BYTES
    cached = _pages(fd, base, stop - base) * PAGE_BYTES
    if cached == stop - base:
        return end - start
    if start > base and _pages(fd, base, PAGE_BYTES):
        cached -= start - base
    if stop > end and _pages(fd, stop - PAGE_BYTES, PAGE_BYTES):
        cached -= stop - end
    return max(0, cached)  # pages may go between the calls


def _pages(fd: int, start: int, size_bytes: int) -> int:
    counts = _Counts()
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(_Range(start, size_bytes)), ctypes.byref(counts), 0) != 0:
        raise OSError(ctypes.get_errno(), "cachestat")
    return int(counts.cached)


def _may_know(fd: int) -> bool:
    """Whether mincore tells this process of the file. Where this is stricter than the kernel, a cached range is only read once more."""
    return os.fstat(fd).st_uid == os.geteuid() or os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)
