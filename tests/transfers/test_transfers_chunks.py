"""Cutting extents into chunks: every asked byte once, in order, in whole pages where that is possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from residency.component import Component, Extent
from residency.transfers._chunks import cut, overlap

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
