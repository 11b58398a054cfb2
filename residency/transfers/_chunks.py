"""The reads of a component's extents: cut into chunks in reading order, each read by a thread with its own buffer and open file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..core.component import Component, Extent, FileIdentity
from ..weights.identity import change
from . import _system, pagecache

LEAST_GAP_BYTES = 128 * 1024  # cached bytes around a smaller gap are copied with it: 20 us, as much as asking twice more


@dataclass(frozen=True, slots=True)
class Chunk:
    """One read. `offset` counts in the component, `start` in the file; the file must reach to `needs_bytes`, the end of its extent, and be
    `file`, where that is known."""

    path: str
    start: int
    size_bytes: int
    offset: int
    needs_bytes: int
    file: FileIdentity | None = None

    def middle(self, size_bytes: int) -> Chunk:
        """So many bytes of its middle; all of it where it has fewer."""
        cut_bytes = max(0, self.size_bytes - size_bytes) // 2
        return replace(self, start=self.start + cut_bytes, size_bytes=min(size_bytes, self.size_bytes), offset=self.offset + cut_bytes)


def between(component: Component, start_bytes: int, end_bytes: int) -> Iterator[tuple[int, Extent, int]]:
    """The parts of the extents in [start_bytes, end_bytes): where each begins in the component, itself, where its extent ends."""
    offset = 0
    for extent in component.extents:
        first, last = max(start_bytes - offset, 0), min(end_bytes - offset, extent.size_bytes)
        if first < last:
            part = Extent(extent.path, extent.start + first, last - first)
            yield offset + first, part, extent.start + extent.size_bytes
        offset += extent.size_bytes


def cut(component: Component, size_bytes: int, chunk_bytes: int, start_bytes: int = 0) -> Iterator[Chunk]:
    """Chunks that cover [start_bytes, size_bytes) once and in order; they end at multiples of `chunk_bytes` in the file: whole pages."""
    files = {file.path: file for file in component.files}
    for offset, part, needs_bytes in between(component, start_bytes, size_bytes):
        start, end = part.start, part.start + part.size_bytes
        while start < end:
            stop = min(end, start - start % chunk_bytes + chunk_bytes)
            yield Chunk(part.path, start, stop - start, offset + start - part.start, needs_bytes, files.get(part.path))
            start = stop


def runs(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """The chunks in their order, in stretches of one file without gaps."""
    begin = 0
    for index in range(1, len(chunks) + 1):
        before = chunks[index - 1]
        if index == len(chunks) or (chunks[index].path, chunks[index].start) != (before.path, before.start + before.size_bytes):
            yield chunks[begin:index]
            begin = index


def joined(run: Sequence[Chunk]) -> Chunk:
    """One chunk in place of a stretch without gaps."""
    size_bytes = sum(chunk.size_bytes for chunk in run)
    return Chunk(run[0].path, run[0].start, size_bytes, run[0].offset, max(chunk.needs_bytes for chunk in run), run[0].file)


def overlap(one: Component, other: Component) -> bool:
    """Whether the two are read from bytes in common (one file under two keys: the same checkpoint with other options)."""
    return any(
        a.path == b.path and a.start < b.start + b.size_bytes and b.start < a.start + a.size_bytes
        for a in one.extents
        for b in other.extents
    )


class Reader:
    """One thread's buffer, made at the first read, and the file it has open. Every OSError it raises names the file."""

    def __init__(self) -> None:
        self._buffer: bytearray | None = None
        self._path: str | None = None
        self._fd = -1

    def cached_bytes(self, chunk: Chunk) -> int | None:
        """Bytes of the chunk in the page cache. OSError when the file cannot be opened, ends before its extent does, or is another."""
        fd = self.open(chunk)
        try:
            file_bytes = pagecache.file_bytes(fd)
        except OSError as error:
            raise OSError(f"{chunk.path}: {error}") from error
        if file_bytes < chunk.needs_bytes:
            raise OSError(f"{chunk.path} ends at {file_bytes} bytes, the component's part of it at {chunk.needs_bytes}")
        return pagecache.cached_in(fd, chunk.start, chunk.size_bytes)

    def read_gaps(self, chunk: Chunk) -> int:
        """Returns the bytes read: those of the chunk that were not cached."""
        cached = self.cached_bytes(chunk)
        if cached == chunk.size_bytes:
            return 0  # also bytes that the system has read along with the gap before
        if not cached or chunk.size_bytes <= LEAST_GAP_BYTES:
            self.read(chunk, whole=False)
            return chunk.size_bytes
        middle = chunk.start + chunk.size_bytes // 2
        middle -= middle % LEAST_GAP_BYTES
        if middle <= chunk.start:  # a chunk longer than a gap holds the beginning of one
            middle += LEAST_GAP_BYTES
        first_bytes = middle - chunk.start
        rest = replace(chunk, start=middle, size_bytes=chunk.size_bytes - first_bytes, offset=chunk.offset + first_bytes)
        return self.read_gaps(replace(chunk, size_bytes=first_bytes)) + self.read_gaps(rest)

    def read(self, chunk: Chunk, *, whole: bool = True) -> None:
        """Read all of it. Not `whole`: a gap, behind which the system shall read on by itself."""
        if self._buffer is None:
            self._buffer = bytearray(_system.current.buffer_bytes)
        fd = self.open(chunk)
        try:
            count = pagecache.read_into_cache(fd, chunk.start, chunk.size_bytes, self._buffer, copies=not whole)
        except OSError as error:
            raise OSError(f"{chunk.path} at byte {chunk.start}: {error}") from error
        if count < chunk.size_bytes:
            raise OSError(f"{chunk.path} ended at {chunk.start + count} bytes while it was read")

    def use(self, chunk: Chunk) -> None:
        """It is cached: see System.use_again. OSError as for `read`."""
        if self._buffer is None:
            self._buffer = bytearray(_system.current.buffer_bytes)
        fd = self.open(chunk)
        try:
            _system.current.use_again(fd, memoryview(self._buffer), chunk.start, chunk.size_bytes)
        except OSError as error:
            raise OSError(f"{chunk.path} at byte {chunk.start}: {error}") from error

    def close(self) -> None:
        if self._path is not None:
            pagecache.close_file(self._fd)
        self._path, self._buffer = None, None

    def open(self, chunk: Chunk) -> int:
        """The descriptor of its file. OSError when it cannot be opened, or is another than was planned."""
        path = chunk.path
        changed = None if chunk.file is None else change(chunk.file)
        if changed is not None:
            raise OSError(f"{changed} since its reading was planned")
        if self._path != path:
            if self._path is not None:
                self._path = None
                pagecache.close_file(self._fd)
            self._fd = pagecache.open_file(path)
            self._path = path
        return self._fd
