"""The order of a component's bytes: what is held comes first, nothing is lost and nothing counts twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from residency.core.component import Component, Extent
from residency.weights.layout import held_first


def component(*extents: Extent) -> Component:
    return Component("k", "k", "MODEL", sum(extent.size_bytes for extent in extents), extents)


def test_what_is_missing_comes_last_each_part_in_its_old_order():
    laid_out, held_bytes = held_first(component(Extent("a", 100, 50)), {"a": [(120, 130), (100, 105)]})
    assert laid_out.extents == (Extent("a", 105, 15), Extent("a", 130, 20), Extent("a", 100, 5), Extent("a", 120, 10))
    assert held_bytes == 35 and laid_out.key == "k" and laid_out.size_bytes == 50


def test_with_nothing_missing_nothing_changes_but_parts_that_touch_are_one():
    whole = component(Extent("a", 8, 50), Extent("b", 0, 9))
    assert held_first(whole, {}) == (whole, 59)
    assert held_first(whole, {"b": [(100, 105)], "c": [(0, 9)]}) == (whole, 59)
    assert held_first(whole, {"a": [(0, 99)], "b": [(0, 99)]})[1] == 0


PIECES = st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 40))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=6), st.lists(PIECES, max_size=12))
def test_every_byte_stays_once_and_exactly_the_missing_ones_are_behind(sizes: list[tuple[int, int]], missing: list[tuple[str, int, int]]):
    extents, at = [], {"a": 0, "b": 0}
    for number, (gap, size_bytes) in enumerate(sizes):
        path = "ab"[number % 2]
        extents.append(Extent(path, at[path] + gap, size_bytes))
        at[path] += gap + size_bytes
    lost = {(path, byte) for path, start, size_bytes in missing for byte in range(start, start + size_bytes)}

    def bytes_of(one: Component) -> list[tuple[str, int]]:
        return [(extent.path, byte) for extent in one.extents for byte in range(extent.start, extent.start + extent.size_bytes)]

    before = component(*extents)
    ranges: dict[str, list[tuple[int, int]]] = {}
    for path, start, size_bytes in missing:
        ranges.setdefault(path, []).append((start, start + size_bytes))
    laid_out, held_bytes = held_first(before, ranges)
    all_bytes = bytes_of(before)
    assert bytes_of(laid_out) == [one for one in all_bytes if one not in lost] + [one for one in all_bytes if one in lost]
    assert held_bytes == sum(one not in lost for one in all_bytes)
    at = 0
    for one, following in zip(laid_out.extents, laid_out.extents[1:], strict=False):
        at += one.size_bytes
        touch = (one.path, one.start + one.size_bytes) == (following.path, following.start)
        assert one.size_bytes and (not touch or at == held_bytes), "ranges that touch are one, but where what is held ends"
