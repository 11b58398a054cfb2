"""What the page cache holds, on real files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path
from random import Random

import pytest
from cache_story import nearly
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from residency.core.component import Extent
from residency.transfers import pagecache
from residency.transfers.pagecache import cached_around, cached_bytes, drop, read_into_cache

MIB = 1024**2
MakeFile = Callable[..., Path]


def read(path: Path, start: int, size_bytes: int, buffer_bytes: int = MIB) -> int:
    fd = os.open(path, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead of the kernel's: exactly these pages
    try:
        return read_into_cache(fd, start, size_bytes, bytearray(buffer_bytes))
    finally:
        os.close(fd)


def test_what_is_read_is_cached_and_what_is_dropped_is_not(cold_file: MakeFile) -> None:
    path = cold_file("a", 64 * MIB)
    assert read(path, 16 * MIB, 32 * MIB) == 32 * MIB
    assert cached_bytes(Extent(str(path), 0, 64 * MIB)) == nearly(32 * MIB)
    assert cached_bytes(Extent(str(path), 24 * MIB, 40 * MIB)) == nearly(24 * MIB)
    drop(Extent(str(path), 32 * MIB, 32 * MIB))
    assert cached_bytes(Extent(str(path), 0, 64 * MIB)) == nearly(16 * MIB)


def test_bytes_are_counted_in_the_extent_not_in_its_pages(cold_file: MakeFile) -> None:
    path = cold_file("a", 10 * PAGESIZE + 100)
    extent = Extent(str(path), PAGESIZE + 10, 9 * PAGESIZE + 90)
    read(path, 0, 2 * PAGESIZE)
    assert cached_bytes(extent) == PAGESIZE - 10
    read(path, 10 * PAGESIZE, 100)
    assert cached_bytes(extent) == PAGESIZE - 10 + 100
    read(path, 0, 11 * PAGESIZE)
    assert cached_bytes(extent) == extent.size_bytes


def test_dropping_leaves_pages_that_a_neighbour_shares(cold_file: MakeFile) -> None:
    path = cold_file("a", 4 * PAGESIZE)
    read(path, 0, 4 * PAGESIZE)
    drop(Extent(str(path), 10, PAGESIZE))  # touches two pages, fills none
    assert cached_bytes(Extent(str(path), 0, 4 * PAGESIZE)) == 4 * PAGESIZE
    drop(Extent(str(path), PAGESIZE, 2 * PAGESIZE + 10))
    assert cached_bytes(Extent(str(path), 0, 4 * PAGESIZE)) == 2 * PAGESIZE


def test_dropping_to_the_end_takes_the_last_part_page(cold_file: MakeFile) -> None:
    path = cold_file("a", PAGESIZE + 100)
    read(path, 0, PAGESIZE + 100)
    drop(Extent(str(path), 0, PAGESIZE + 100))
    assert cached_bytes(Extent(str(path), 0, PAGESIZE + 100)) == 0


def test_a_file_shorter_than_the_extent_has_only_what_it_has(cold_file: MakeFile) -> None:
    path = cold_file("a", MIB)
    assert read(path, 0, 4 * MIB) == MIB
    assert cached_bytes(Extent(str(path), 0, 4 * MIB)) == nearly(MIB)
    assert cached_bytes(Extent(str(path), 2 * MIB, MIB)) == 0


def test_small_and_large_buffers_read_the_same(cold_file: MakeFile) -> None:
    path = cold_file("a", MIB)
    assert read(path, 5, MIB - 5, buffer_bytes=1000) == MIB - 5
    assert read(path, 5, 100, buffer_bytes=4 * MIB) == 100


def test_a_hole_is_cached_once_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(8 * MIB)
    if cached_bytes(Extent(str(path), 0, 8 * MIB)) is None:
        pytest.skip("the page cache cannot be asked here")
    assert read(path, 0, 8 * MIB) == 8 * MIB
    assert cached_bytes(Extent(str(path), 0, 8 * MIB)) in (0, 8 * MIB)  # tmpfs does not cache holes


def test_a_vanished_file_has_nothing_cached(tmp_path: Path) -> None:
    gone = Extent(str(tmp_path / "gone"), 0, MIB)
    assert cached_bytes(gone) == 0
    with pytest.raises(FileNotFoundError, match="gone"):
        drop(gone)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        pagecache.open_file(str(tmp_path / "fifo"))


if sys.platform == "linux":
    from residency.transfers import _linux, _mincore

    def test_mincore_and_cachestat_agree(cold_file: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
        path = cold_file("a", 8 * MIB)
        for start, size in ((0, 100), (MIB, 2 * MIB), (5 * MIB + 11, MIB)):
            read(path, start, size)
        monkeypatch.setattr(_mincore, "WINDOW_BYTES", 3 * PAGESIZE)  # many windows on a small file
        fd = pagecache.open_file(str(path))
        try:
            for start, size in ((0, 8 * MIB), (7, 50), (MIB + 1, 2 * MIB), (5 * MIB + 12, 3 * MIB), (MIB - 5, 10), (9 * MIB, 5)):
                asked = _mincore.resident_bytes(fd, start, size)
                try:
                    assert _linux.counted_bytes(fd, [(start, start + size)]) == [asked]
                except OSError:
                    pytest.skip("no cachestat here (Linux before 6.5, or a system-call filter)")
        finally:
            os.close(fd)

    PAGES = 64

    @given(
        st.sets(st.integers(0, PAGES - 1)) | st.tuples(st.integers(0, PAGES), st.integers(0, PAGES)).map(lambda ends: set(range(*ends))),
        st.lists(st.tuples(st.sampled_from((0, 0, 0, 1, 5000, -2 * PAGESIZE)), st.integers(1, 3 * PAGESIZE)), max_size=60),
        st.integers(0, PAGES * PAGESIZE),
        st.randoms(use_true_random=False),
    )
    @example({0, 1}, [(0, 4 * PAGESIZE), (-3 * PAGESIZE, 10)], 0, Random(0))  # the second lies within the first
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_ranges_that_are_asked_for_together_count_as_each_does_alone(
        cold_file: MakeFile, there: set[int], sizes: list[tuple[int, int]], at_bytes: int, order: Random
    ) -> None:
        """Whatever pages of the file are there, and wherever it ends; most of the ranges touch the one before, some overlap."""
        path = cold_file("a", (PAGES - 1) * PAGESIZE + 100)
        for page in there:
            read(path, page * PAGESIZE, 1)
        ranges, at = [], 11
        for gap, size_bytes in sizes:
            start = max(0, at + gap)
            ranges.append((start, start + size_bytes))
            at = start + size_bytes
        order.shuffle(ranges)
        fd = pagecache.open_file(str(path))
        try:
            alone = [_mincore.resident_bytes(fd, start, end - start) for start, end in ranges]
            before_bytes, left_bytes = 0, at_bytes
            for start, end in ranges:
                before_bytes += _mincore.resident_bytes(fd, start, min(left_bytes, end - start))
                left_bytes -= min(left_bytes, end - start)
            try:
                assert _linux.counted_bytes(fd, ranges) == alone
            except OSError:
                pytest.skip("no cachestat here (Linux before 6.5, or a system-call filter)")
        finally:
            os.close(fd)
        extents = [Extent(str(path), start, end - start) for start, end in ranges]
        assert cached_around(extents, at_bytes) == (before_bytes, sum(alone) - before_bytes)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become somebody else")
    def test_a_stranger_is_told_nothing_rather_than_everything(cold_file: MakeFile) -> None:
        """mincore calls every page of somebody else's read-only file resident; that must not be passed on."""
        path = cold_file("a", MIB)
        path.chmod(0o644)
        fd = pagecache.open_file(str(path))  # before the change: the directory is root's own
        os.seteuid(65534)
        try:
            assert _mincore.resident_bytes(fd, 0, MIB) == MIB
            # None, or the truth from a cachestat that does not refuse (Linux 6.5 to 6.13)
            assert pagecache.cached_in(fd, 0, MIB) in (None, 0)
        finally:
            os.seteuid(0)
            os.close(fd)


def test_several_extents_are_asked_as_one_sequence(cold_file: MakeFile, tmp_path: Path) -> None:
    one, other = cold_file("a", 8 * MIB), cold_file("b", 8 * MIB)
    read(one, 0, 4 * MIB)
    read(other, 4 * MIB, 4 * MIB)
    extents = [Extent(str(one), 0, 8 * MIB), Extent(str(tmp_path / "gone"), 0, MIB), Extent(str(other), 0, 8 * MIB)]
    if cached_around(extents, 0) is None:
        pytest.skip("this kernel has no cachestat")
    assert cached_around(extents, 0) == (0, nearly(8 * MIB))
    assert cached_around(extents, 3 * MIB) == (nearly(3 * MIB), nearly(5 * MIB))
    assert cached_around(extents, 15 * MIB) == (nearly(6 * MIB), nearly(2 * MIB))
    assert cached_around(extents, 17 * MIB) == (nearly(8 * MIB), 0)
