"""The tiers of the simulated machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from residency.simulate.tiers import Device, Host, Ranges, Victim

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8)


@given(SPANS, st.integers(0, 60))
def test_ranges_hold_what_a_list_of_bytes_in_order_of_reading_would(spans: list[tuple[int, int]], dropped: int):
    ranges, in_order = Ranges(), list[int]()
    for start, end in spans:
        ranges.add(start, end)
        in_order = [byte for byte in in_order if not start <= byte < end] + list(range(start, end))
    gone = ranges.drop_oldest(dropped)
    left = in_order[dropped:]

    assert gone == len(in_order) - len(left)
    assert [byte for start, end in ranges.spans for byte in range(start, end)] == left
    assert ranges.size_bytes == len(left)
    for at in range(50):
        present, end = ranges.run_at(at, 50)
        assert present == (at in left) and at < end <= 50
        assert all((byte in left) == present for byte in range(at, end))


def test_the_full_page_cache_drops_what_was_read_first():
    host = Host(10)
    host.cache("a", 0, 6)
    host.cache("b", 0, 6)

    assert host.cached("a").spans == [(2, 6)]
    assert host.cached("b").spans == [(0, 6)]


def test_most_recently_used_first_keeps_what_was_read_first():
    host = Host(12, Victim.MOST_RECENT)
    for key in "abc":
        host.cache(key, 0, 5)

    assert host.cached("a").spans == [(0, 5)]
    assert host.cached("b").spans == [(3, 5)]


def test_what_a_running_node_needs_stays():
    host = Host(10)
    host.cache("a", 0, 6)
    host.cache("b", 0, 6, protected=("a",))

    assert host.cached("a").spans == [(0, 6)]
    assert host.cached("b").size_bytes == 4


def test_pins_push_the_page_cache_out_and_stop_at_their_floor():
    host = Host(10)
    host.cache("a", 0, 8)

    assert host.pin("b", 9, floor_bytes=3) == 7
    assert host.cached("a").size_bytes == 3
    assert host.available_bytes == 3


def test_pins_are_given_up_most_recently_used_first_from_their_end():
    host = Host(20)
    host.pin("a", 6, 0)
    host.pin("b", 6, 0)
    host.unpin(8)

    assert host.pins == {"a": 4}


def test_the_device_makes_room_by_shortening_what_was_used_longest_ago():
    device = Device(10)
    for key in ("a", "b"):
        device.make_room(key, 4, 0)

    assert device.make_room("c", 5, working_set_bytes=1) == 0
    assert device.held == {"b": 4, "c": 5}
    assert device.make_room("b", 4, 0) == 4
    assert device.peak_bytes == 10
