"""When copies crossed the link, on a device with a clock of its own that runs behind what the host announces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.comfyui.device.link import LEAST_BURST_BYTES, LEAST_CHUNK_BYTES, Link

GB = 10**9
AHEAD_S = 1000.0  # of the device's clock before the host's


class Host:
    now_s = 5.0


class Stream:
    """Moves a GB in a second, one thing after the other; what has been announced is reached when the time has come."""

    def __init__(self) -> None:
        self.free_s = 0.0

    def copy(self, size_bytes: int) -> None:
        self.free_s = max(self.free_s, Host.now_s) + size_bytes / GB

    def query(self) -> bool:
        return self.free_s <= Host.now_s


class Event:
    def record(self, stream: Stream) -> None:
        self.reached_s = AHEAD_S + max(stream.free_s, Host.now_s)

    def query(self) -> bool:
        return self.reached_s <= AHEAD_S + Host.now_s

    def elapsed_time(self, later: Event) -> float:
        return 1e3 * (later.reached_s - self.reached_s)


@pytest.fixture
def link() -> Link:
    Host.now_s = 5.0
    return Link(lambda: Host.now_s, Event)  # type: ignore[arg-type]


def burst(link: Link, stream: Stream, size_bytes: int, *, ahead: bool = False) -> None:
    begun = link.begin(stream)  # type: ignore[arg-type]
    stream.copy(size_bytes)
    link.end(begun, stream, "a", size_bytes, size_bytes, ahead=ahead)  # type: ignore[arg-type]


def test_a_burst_is_told_when_it_has_crossed_with_the_hosts_times(link: Link):
    stream = Stream()
    burst(link, stream, 2 * GB)
    burst(link, stream, GB, ahead=True)
    Host.now_s = 7.5
    (first,) = link.take()
    assert (first.component, first.size_bytes, first.ahead) == ("a", 2 * GB, False)
    assert (first.start_s, first.end_s) == pytest.approx((5.0, 7.0))
    Host.now_s = 8.0
    (second,) = link.take()
    assert second.ahead and (second.start_s, second.end_s) == pytest.approx((7.0, 8.0))
    assert link.take() == []
    assert link.crossed() == pytest.approx((3 * GB, 3.0)) and link.crossed() == (0, 0.0)


def test_what_crossed_between_two_marks_counts_for_the_rate_and_is_told_by_whoever_moved_it(link: Link):
    stream = Stream()
    begun = link.mark(stream)  # type: ignore[arg-type]
    stream.copy(2 * GB)
    ended = link.mark(stream)  # type: ignore[arg-type]
    Host.now_s = 8.0
    link.between(begun, ended, LEAST_CHUNK_BYTES - 1)
    assert link.crossed() == (0, 0.0)

    link.between(begun, ended, 2 * GB)

    assert link.crossed() == pytest.approx((2 * GB, 2.0))
    assert link.take() == []


def test_little_is_told_and_does_not_count_for_the_rate(link: Link):
    burst(link, Stream(), LEAST_BURST_BYTES - 1)
    burst(link, Stream(), 0)
    Host.now_s = 9.0
    assert [copied.size_bytes for copied in link.take()] == [LEAST_BURST_BYTES - 1]
    assert link.crossed() == (0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 3 * GB)), min_size=1, max_size=12))
def test_bursts_never_overlap_and_each_takes_what_the_link_needs(pauses: list[tuple[float, int]]):
    Host.now_s = 5.0
    link, stream = Link(lambda: Host.now_s, Event), Stream()  # type: ignore[arg-type]
    begun_s = []
    for pause_s, size_bytes in pauses:
        Host.now_s += pause_s
        begun_s.append(Host.now_s)
        burst(link, stream, size_bytes)
    Host.now_s += 100.0
    copied = link.take()
    assert [one.size_bytes for one in copied] == [size_bytes for _, size_bytes in pauses]
    for one, announced_s in zip(copied, begun_s, strict=True):
        assert one.start_s >= announced_s - 1e-6 and one.end_s - one.start_s == pytest.approx(one.size_bytes / GB, abs=1e-6)
    assert all(before.end_s <= after.start_s + 1e-6 for before, after in itertools.pairwise(copied))
