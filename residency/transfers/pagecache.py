"""The page cache of this system behind one small interface: ask, drop, fill. What cannot be known is None, never a guess.

A cache that is not the kernel's (ZFS's ARC) is invisible here: its files look uncached, and reading them again is cheap.
What asking costs is in _linux.py.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable
from mmap import PAGESIZE
from pathlib import Path

from ..core.component import Extent

if sys.platform == "linux":
    from . import _linux as _platform
elif sys.platform == "darwin":
    from . import _darwin as _platform
else:
    from . import _portable as _platform

# O_NONBLOCK: opening a FIFO would wait for its writer; on a regular file it changes nothing.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)


def open_file(path: str) -> int:
    """A descriptor of a regular file. OSError, naming the path, when there is none."""
    fd = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return fd


def cached_bytes(extent: Extent) -> int | None:
    """Bytes of the extent that are in the page cache now; what the file lacks is not. None: this process cannot know.

    A file that has vanished has 0 bytes cached: nothing can be read from it any more.
    """
    try:
        fd = open_file(extent.path)
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    try:
        return cached_in(fd, extent.start, extent.size_bytes)
    finally:
        os.close(fd)


def cached_behind(extents: Iterable[Extent], skip_bytes: int = 0) -> int | None:
    """Bytes of the extents, taken as one sequence, behind the first `skip_bytes` that are in the page cache now. Each file is opened once.

    None also where asking takes long: by mincore 58 GB of weights take a second.
    """
    if not hasattr(_platform, "counted_bytes"):
        return None
    files: dict[str, int | None] = {}
    found_bytes = 0
    try:
        for extent in extents:
            skipped = min(skip_bytes, extent.size_bytes)
            skip_bytes -= skipped
            if skipped == extent.size_bytes:
                continue
            if extent.path not in files:
                try:
                    files[extent.path] = open_file(extent.path)
                except FileNotFoundError:
                    files[extent.path] = None
            fd = files[extent.path]
            if fd is not None:
                found_bytes += _platform.counted_bytes(fd, extent.start + skipped, extent.size_bytes - skipped)
    except OSError:
        return None
    finally:
        for fd in files.values():
            if fd is not None:
                os.close(fd)
    return found_bytes


def cached_in(fd: int, start: int, size_bytes: int) -> int | None:
    """Like cached_bytes, for a file that is already open."""
    try:
        return _platform.cached_in(fd, start, size_bytes)
    except OSError:  # a file system that cannot be mapped
        return None


def drop(extent: Extent) -> None:
    """Ask the kernel to forget the extent's whole pages. A page shared with a neighbouring range stays; so does what is mapped or dirty.

    OSError when the file cannot be opened.
    """
    fd = open_file(extent.path)
    try:
        file_bytes = os.fstat(fd).st_size
        end = extent.start + extent.size_bytes
        end = end - end % PAGESIZE if end < file_bytes else -(-file_bytes // PAGESIZE) * PAGESIZE
        start = -(-extent.start // PAGESIZE) * PAGESIZE
        if start < end:
            _platform.drop_in(fd, start, end - start)
    finally:
        os.close(fd)


def drop_files(files: Iterable[Path]) -> None:
    """Drop whole files, where the system lets us; what is not written yet is written first, for it would stay. OSError like `drop`."""
    for path in files:
        if os.name == "posix":  # Windows syncs only what is open for writing, and drops nothing
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


def read_into_cache(fd: int, start: int, size_bytes: int, buffer: bytearray) -> int:
    """Read the range through `buffer`, of any size, so that its pages are cached. Returns the bytes read: fewer at the end of the file.

    Where the system can, the range is read in one call that goes through the buffer again and again: a thread that comes back from a call
    waits for the interpreter, 5 ms and more while another one computes.
    """
    view = memoryview(buffer)
    done = 0
    while done < size_bytes:
        count = _read_at(fd, view, start + done, size_bytes - done)
        if count == 0:
            break
        done += count
    return done


if hasattr(os, "preadv"):
    _MOST_VIEWS = 1024  # Linux and macOS take no more in one call (IOV_MAX)

    def _read_at(fd: int, view: memoryview, offset: int, size_bytes: int) -> int:
        """At most `size_bytes`, into the same view over and over."""
        whole, rest = divmod(size_bytes, len(view))
        views = [view] * min(whole, _MOST_VIEWS)
        if len(views) < _MOST_VIEWS and rest:
            views.append(view[:rest])
        return os.preadv(fd, views, offset)

else:

    def _read_at(fd: int, view: memoryview, offset: int, size_bytes: int) -> int:
        """Moves the descriptor's position: a descriptor belongs to one thread."""
        os.lseek(fd, offset, os.SEEK_SET)
        return io.FileIO(fd, closefd=False).readinto(view[:size_bytes]) or 0
