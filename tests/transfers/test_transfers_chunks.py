"""Cutting extents into chunks: every asked byte once, in order, in whole pages where that is possible."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residency.core.component import Component, Extent
from residency.transfers._chunks import LEAST_GAP_BYTES, Chunk, Reader, cut, joined, overlap, runs
from residency.transfers.pagecache import cached_bytes

MIB = 2**20
EXTENTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100)), max_size=5)


def component(*extents: tuple[str, int, int]) -> Component:
    made = tuple(Extent(path, start, size) for path, start, size in extents)
    return Component("k", "k", "MODEL", sum(extent.size_bytes for extent in made), made)


@given(EXTENTS, st.integers(0, 600), st.integers(1, 40), st.integers(0, 600))
def test_chunks_cover_the_asked_bytes_once_and_in_order(
    ranges: list[tuple[int, int]], size_bytes: int, chunk_bytes: int, start_bytes: int
) -> None:
    whole = component(*((f"/{index}", start, size) for index, (start, size) in enumerate(ranges)))
    chunks = list(cut(whole, size_bytes, chunk_bytes, start_bytes))
    every_byte = [(extent.path, at) for extent in whole.extents for at in range(extent.start, extent.start + extent.size_bytes)]
    assert [(chunk.path, chunk.start + at) for chunk in chunks for at in range(chunk.size_bytes)] == every_byte[start_bytes:size_bytes]
    assert [chunk.offset for chunk in chunks] == [start_bytes + sum(c.size_bytes for c in chunks[:index]) for index in range(len(chunks))]
    for chunk in chunks:
        assert 0 < chunk.size_bytes <= chunk_bytes
        assert chunk.start // chunk_bytes == (chunk.start + chunk.size_bytes - 1) // chunk_bytes  # never across a multiple


def test_components_overlap_where_they_share_bytes() -> None:
    one = component(("/a", 0, 100), ("/b", 50, 50))
    assert overlap(one, component(("/b", 99, 1)))
    assert not overlap(one, component(("/b", 0, 50), ("/c", 0, 100)))
    assert not overlap(one, component())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=12), st.integers(1, 4))
def test_runs_are_the_chunks_in_order_and_each_is_one_stretch_of_one_file(gaps_and_sizes: list[tuple[int, int]], chunk_bytes: int):
    extents, at = [], 0
    for gap, size_bytes in gaps_and_sizes:
        at += gap
        extents.append(Extent("a" if at < 15 else "b", at, size_bytes))
        at += size_bytes
    whole = Component("k", "k", "MODEL", sum(extent.size_bytes for extent in extents), tuple(extents))
    chunks = list(cut(whole, whole.size_bytes, chunk_bytes))
    found = list(runs(chunks))
    assert [chunk for run in found for chunk in run] == chunks
    for run in found:
        one = joined(run)
        assert one.size_bytes == sum(chunk.size_bytes for chunk in run) == run[-1].start + run[-1].size_bytes - run[0].start
        assert {chunk.path for chunk in run} == {one.path}


SIZES = st.tuples(st.integers(0, 3 * LEAST_GAP_BYTES), st.integers(1, 4 * LEAST_GAP_BYTES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, st.lists(st.integers(0, 127), max_size=4))
def test_what_is_missing_of_a_chunk_is_read_wherever_it_begins(
    cold_file: Callable[..., Path], sizes: tuple[int, int], warm: list[int]
) -> None:
    """Ranges of tensors begin anywhere: halving one that held no whole gap before its middle never ended."""
    start, size_bytes = sizes
    path = cold_file(f"a{start}-{size_bytes}-{warm}", 8 * LEAST_GAP_BYTES)
    with open(path, "rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # exactly these pages
        for page in warm:
            file.seek(page * 4096)
            file.read(1)
    reader = Reader()
    try:
        assert reader.read_gaps(Chunk(str(path), start, size_bytes, 0, start + size_bytes)) <= size_bytes
    finally:
        reader.close()
    assert cached_bytes(Extent(str(path), start, size_bytes)) in (size_bytes, None)


def test_gaps_are_copied_and_whole_chunks_are_not(cold_file: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With read_ahead_kb 8192 a gap filled inside the kernel brings 128 KiB along, a copied one 8 MiB: 41 reads of a part, not 10."""
    if sys.platform != "linux":
        pytest.skip("elsewhere there is one way")
    path, inside = cold_file("gaps", 8 * MIB), []
    own = os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda *words: inside.append(words[3]) or own(*words))
    reader = Reader()

    reader.read(Chunk(str(path), 0, MIB, 0, 8 * MIB))
    read_bytes = reader.read_gaps(Chunk(str(path), 0, 8 * MIB, 0, 8 * MIB))
    reader.close()

    assert inside == [MIB] and read_bytes <= 7 * MIB
    assert cached_bytes(Extent(str(path), 0, 8 * MIB)) == 8 * MIB
