"""The pages of a file that are in the page cache, asked with mincore(2) on a mapping that is never touched. Linux and macOS."""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PAGE_BYTES = mmap.PAGESIZE
# 64 KiB of vector a window with 4 KiB pages: a 24 GB file needs 90 windows and no 6 MB vector.
WINDOW_BYTES = 65536 * PAGE_BYTES

_PROT_READ, _MAP_SHARED = 1, 1  # the same numbers on Linux and macOS
_MAP_FAILED = ctypes.c_void_p(-1).value
_RESIDENT_BIT = bytes(value & 1 for value in range(256))  # the other bits are undefined (Linux) or other facts (macOS)
_vectors = threading.local()

_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_libc.msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def resident_bytes(fd: int, start: int, size_bytes: int) -> int:
    """Count the resident bytes of [start, start + size_bytes), none of them behind the end of the file. Raises OSError if refused."""
    end = min(start + size_bytes, os.fstat(fd).st_size)
    resident = 0
    while start < end:
        base = start - start % PAGE_BYTES
        stop = min(end, base + WINDOW_BYTES)
        pages = _resident_pages(fd, base, stop - base)
        resident += pages.count(1) * PAGE_BYTES
        if pages[0]:
            resident -= start - base
        if pages[-1]:
            resident -= base + len(pages) * PAGE_BYTES - stop
        start = stop
    return resident


def invalidate(fd: int, start: int, size_bytes: int, flag: int) -> None:
    """msync `flag` over page-aligned bytes, in windows."""
    for base in range(start, start + size_bytes, WINDOW_BYTES):
        length = min(WINDOW_BYTES, start + size_bytes - base)
        with _mapped(fd, base, length) as address:
            if _libc.msync(address, length, flag) != 0:
                raise OSError(ctypes.get_errno(), "msync")


def _resident_pages(fd: int, base: int, length: int) -> bytes:
    """One byte, 0 or 1, for each page of a window."""
    pages = -(-length // PAGE_BYTES)
    vector = getattr(_vectors, "buffer", None)
    if vector is None or len(vector) < pages:
        vector = _vectors.buffer = ctypes.create_string_buffer(pages)  # the kernel writes `pages` bytes whatever there is
    with _mapped(fd, base, length) as address:
        if _libc.mincore(address, length, vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
    return ctypes.string_at(vector, pages).translate(_RESIDENT_BIT)


@contextmanager
def _mapped(fd: int, base: int, length: int) -> Iterator[int]:
    address: int | None = _libc.mmap(None, length, _PROT_READ, _MAP_SHARED, fd, base)
    if address is None or address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        yield address
    finally:
        _libc.munmap(address, length)
