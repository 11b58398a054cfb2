"""The questions that a system must answer, in one place: files and their cache, drives, memory. One module per system keeps to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HostMemory:
    """`limit` names the authority that left the least: "MemAvailable", "psutil", "GlobalMemoryStatusEx", or the cgroup file that holds the
    limit. `commit_bytes`: how much memory may still be asked for, which the page cache does not count in and pinned memory does;
    `pinnable_bytes`: how much of all memory may be pinned. None: the system has no such limit of its own."""

    total_bytes: int
    available_bytes: int
    limit: str
    commit_bytes: int | None = None
    pinnable_bytes: int | None = None


class System(Protocol):
    """Files are handles, numbers that only the system that has opened them understands. A handle belongs to one thread. Every OSError
    names the file, or is told with it by the caller."""

    name: str
    buffer_bytes: int  # of one reading thread
    threads: int  # that read one drive at once

    def open(self, path: str) -> int:
        """A handle of a regular file, for reading. OSError, naming the path, when there is none."""

    def close(self, handle: int) -> None: ...

    def file_bytes(self, handle: int) -> int: ...

    def read_at(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> int:
        """Read at most `size_bytes` from there through the view, over and over where one call can. Bytes read; 0 at the file's end."""

    def bring_in(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> int:
        """Have at most `size_bytes` from there in the page cache, through the view where need be. Bytes; 0 at the file's end."""

    def use_again(self, handle: int, view: memoryview, offset: int, size_bytes: int) -> None:
        """Have pages that were read once count as used, where the system would drop those before others, however long unused."""

    def cached_in(self, handle: int, start: int, size_bytes: int) -> int | None:
        """Bytes of the range that are in the page cache; None: this system, or this process, is not told."""

    def counted_in(self, handle: int, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """The same of each (start, end) where the answer takes next to no time, however large the ranges are; OSError elsewhere."""

    def announce_reads(self, handle: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Somebody is about to read each (start, end): begin with all of them, where the system can, and wait for none. `handle` is a file
        descriptor here, whoever has opened it."""

    def drop_in(self, handle: int, start: int, size_bytes: int) -> None:
        """Ask the system to forget whole pages; those that it cannot forget stay without a word."""

    def drive_of(self, path: str) -> str:
        """A stable name of the drive, equal for all files of one drive. OSError when the file cannot be asked for."""

    def is_rotational(self, drive: str) -> bool | None:
        """True for a disk that seeks; None when nobody knows."""

    def memory(self) -> HostMemory: ...

    def pressure(self) -> float:
        """Percent of the last ten seconds in which tasks waited for memory; 0.0 where it is not told."""
