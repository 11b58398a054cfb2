"""What is cached, told by how long samples take: as a pure function, and through the mover on a system that cannot be asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from residency.core.component import Component, Extent, Tier
from residency.core.events import TransferDone
from residency.core.instructions import Prefetch
from residency.transfers import ReadAhead, measure_read_rate, pagecache
from residency.transfers._sampling import ALIKE, APART_BYTES, MOST_SAMPLES, SAMPLE_BYTES, SLOWEST_AGAIN_S, Found, Sample, infer, places

MIB, GIB = 1024**2, 1024**3
CACHED_S, COLD_S = 0.0002, 0.001


@given(st.lists(st.integers(1, 64 * MIB), max_size=60))
@example([64 * MIB] * 400)
def test_samples_lie_between_the_first_and_the_last_chunk_and_are_few(sizes: list[int]):
    found = places(sizes)
    assert len(found) <= MOST_SAMPLES and found == sorted(set(found))
    assert len(found) * APART_BYTES <= sum(sizes)  # reading samples never costs what they could save
    assert not found or (found[0], found[-1]) == (0, len(sizes) - 1)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.01)), min_size=2, max_size=16),
    st.integers(0, 5),
    st.floats(0.5, 1.0),
)
def test_cold_chunks_are_never_called_cached_whatever_delays_the_readings(truth: list[tuple[bool, float]], apart: int, quick: float):
    """A delay makes a reading longer, never shorter; of the second ones at least a quarter is quick."""
    samples = []
    for at, (cached, delay_s) in enumerate(truth):
        first_s = (CACHED_S if cached else COLD_S) + delay_s
        samples.append(Sample(at * (apart + 1), first_s, CACHED_S * quick + (delay_s if at % 2 else 0.0)))
    found = infer(samples[-1].index + 1, samples)
    for sample, (cached, delay_s) in zip(samples, truth, strict=True):
        assert found[sample.index] is not Found.CACHED or cached
        if not cached or delay_s > COLD_S:
            assert found[sample.index] is Found.COLD
    for left, right in pairwise(samples):
        between = set(found[left.index + 1 : right.index])
        cold = {found[one.index] is Found.COLD for one in (left, right)}
        assert between <= {Found.UNKNOWN if len(cold) == 2 else Found.COLD if cold == {True} else Found.CACHED}


@given(st.lists(st.floats(SLOWEST_AGAIN_S * 1.01, 1), min_size=2, max_size=16), st.floats(0, 1))
def test_where_even_cached_bytes_come_slowly_nothing_is_known(again: list[float], first_s: float):
    samples = [Sample(at, first_s, again_s) for at, again_s in enumerate(again)]
    assert infer(len(samples), samples) == [Found.UNKNOWN] * len(samples)
    assert infer(3, []) == [Found.UNKNOWN] * 3


def test_a_first_reading_like_the_second_ones_is_of_cached_bytes():
    assert infer(1, [Sample(0, CACHED_S * ALIKE, CACHED_S)]) == [Found.CACHED]
    assert infer(1, [Sample(0, CACHED_S * ALIKE * 1.01, CACHED_S)]) == [Found.COLD]


def test_where_the_cached_part_ends_between_two_samples_nothing_is_taken_for_cached():
    cached, cold = CACHED_S, COLD_S
    found = infer(
        9, [Sample(at, first_s, CACHED_S) for at, first_s in zip((0, 2, 4, 6, 8), (cached, cached, cached, cold, cold), strict=True)]
    )
    assert found == [*[Found.CACHED] * 4, Found.UNKNOWN, Found.UNKNOWN, *[Found.COLD] * 3]


class Unasked:
    """A system that does not tell what is cached: a real file, read through a clock on which cold bytes take their time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cached: Callable[[int], bool]) -> None:
        self.now_s = 0.0
        self.read: set[int] = set()  # MiB of the file
        self.bytes_per_cold_s, self.bytes_per_cached_s = 1 * GIB, 8 * GIB
        self._cached, self._lock, self._real = cached, threading.Lock(), pagecache.read_into_cache
        monkeypatch.setattr(pagecache, "cached_in", lambda *_: None)
        monkeypatch.setattr(pagecache, "read_into_cache", self.read_into_cache)

    def read_into_cache(self, fd: int, start: int, size_bytes: int, buffer: bytearray, **how: bool) -> int:
        with self._lock:
            for at in range(start // MIB, -(-(start + size_bytes) // MIB)):
                there = at in self.read or self._cached(at)
                self.now_s += MIB / (self.bytes_per_cached_s if there else self.bytes_per_cold_s)
                self.read.add(at)
        return self._real(fd, start, size_bytes, buffer, **how)

    def clock(self) -> float:
        return self.now_s


@pytest.fixture
def weights(tmp_path: Path) -> Component:
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    return Component("w", "w", "MODEL", 256 * MIB, (Extent(str(path), 0, 256 * MIB),))


def read_ahead(weights: Component, system: Unasked) -> tuple[TransferDone, dict[str, float]]:
    mover = ReadAhead(lambda event: None, system.clock, available=lambda: 100 * GIB, pressure=lambda: 0.0, threads_per_drive=1)
    mover.prefetch(Prefetch(weights, Tier.HOST, weights.size_bytes, "needed next")).result()
    done = mover.wait("w")
    mover.close()
    assert isinstance(done, TransferDone) and done.present_bytes == weights.size_bytes
    return done, mover.rates()


def test_a_cached_file_is_sampled_and_not_read_again(weights: Component, monkeypatch: pytest.MonkeyPatch):
    system = Unasked(monkeypatch, lambda at: True)
    done, rates = read_ahead(weights, system)
    assert (done.moved_bytes, done.read_bytes, rates) == (0, 0, {})
    assert len(system.read) <= 2 * MOST_SAMPLES


def test_a_cold_file_is_read_and_tells_how_fast_its_drive_is(weights: Component, monkeypatch: pytest.MonkeyPatch):
    system = Unasked(monkeypatch, lambda at: False)
    done, rates = read_ahead(weights, system)
    assert done.moved_bytes == done.read_bytes == weights.size_bytes
    # the samples, 1 MiB of each chunk, are cached by then
    assert system.bytes_per_cold_s <= rates.popitem()[1] < 1.1 * system.bytes_per_cold_s


def test_of_a_file_that_is_cached_in_part_the_rest_is_read(weights: Component, monkeypatch: pytest.MonkeyPatch):
    system = Unasked(monkeypatch, lambda at: at < 100)
    done, _ = read_ahead(weights, system)
    assert 156 * MIB <= done.moved_bytes <= 156 * MIB + 128 * MIB
    assert system.read >= set(range(100, 256))  # all that was cold


def test_what_nothing_is_known_of_is_read_and_says_nothing_of_the_drive(weights: Component, monkeypatch: pytest.MonkeyPatch):
    system = Unasked(monkeypatch, lambda at: True)
    system.bytes_per_cached_s = SAMPLE_BYTES / (2 * SLOWEST_AGAIN_S)  # another thread keeps the interpreter busy
    done, rates = read_ahead(weights, system)
    assert done.read_bytes == done.moved_bytes == weights.size_bytes and rates == {}


def test_a_drive_is_measured_on_what_is_known_to_be_cold(weights: Component, monkeypatch: pytest.MonkeyPatch):
    path = weights.extents[0].path
    with monkeypatch.context() as here:
        assert measure_read_rate(path, clock=Unasked(here, lambda at: True).clock) == 0.0
    cold = Unasked(monkeypatch, lambda at: False)
    assert cold.bytes_per_cold_s <= measure_read_rate(path, clock=cold.clock) < 1.2 * cold.bytes_per_cold_s
