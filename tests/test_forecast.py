"""The forecast against cases worked out by hand, against the simulator, and what must hold for every prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from story import MB, components

from residency.core.component import Mode
from residency.core.events import RatesMeasured
from residency.core.timeline import Timeline, Use, UseKind, Visit
from residency.forecast import Forecast, forecast
from residency.simulate import LRU, OURS, ideal, run, sequence

Uses = list[tuple[str, float]]


def timeline(uses: Uses) -> Timeline:
    visits = tuple(Visit("p", str(position), "Node", compute_s) for position, (_, compute_s) in enumerate(uses))
    return Timeline(visits, tuple(Use(position, key, UseKind.COMPUTE, True) for position, (key, _) in enumerate(uses)))


def rates(keys: str, read_mb_s: float = 1.0, onload_mb_s: float | None = None) -> RatesMeasured:
    return RatesMeasured(0.0, dict.fromkeys(keys, read_mb_s * MB), None if onload_mb_s is None else onload_mb_s * MB)


def times(found: Forecast) -> list[tuple[float, float]]:
    return [(round(visit.start_s, 3), round(visit.stall_s, 3)) for visit in found.visits]


def test_the_next_component_is_read_while_a_node_computes():
    found = forecast(timeline([("a", 3.0), ("b", 1.0)]), components(a=4, b=5), rates("ab"), 9 * MB)
    assert times(found) == [(0.0, 4.0), (7.0, 2.0)]
    assert (found.total_s, found.peak_host_bytes, found.read_bytes) == (10.0, 9 * MB, 9 * MB)


def test_on_demand_every_component_is_waited_for():
    found = forecast(timeline([("a", 3.0), ("b", 1.0)]), components(a=4, b=5), rates("ab"), 9 * MB, mode=Mode.OFF)
    assert times(found) == [(0.0, 4.0), (7.0, 5.0)]


def test_what_is_there_is_not_read():
    found = forecast(timeline([("a", 3.0)]), components(a=4), rates("a"), 9 * MB, held={"a": 3 * MB})
    assert times(found) == [(0.0, 1.0)] and found.read_bytes == MB


def test_what_the_device_lacks_crosses_the_link_and_stays_while_there_is_room():
    uses = [("a", 1.0), ("b", 1.0), ("a", 1.0)]
    roomy = forecast(timeline(uses), components(a=4, b=4), rates("ab", 100, 2), 8 * MB, 8 * MB, held={"a": 4 * MB, "b": 4 * MB})
    tight = forecast(timeline(uses), components(a=4, b=4), rates("ab", 100, 2), 8 * MB, 4 * MB, held={"a": 4 * MB, "b": 4 * MB})
    assert [stall for _, stall in times(roomy)] == [2.0, 2.0, 0.0]
    assert [stall for _, stall in times(tight)] == [2.0, 2.0, 2.0]
    assert (roomy.peak_device_bytes, tight.peak_device_bytes) == (8 * MB, 4 * MB)


def test_what_cannot_be_timed_is_named():
    found = forecast(timeline([("a", 3.0)]), components(a=4), RatesMeasured(0.0, {}), 9 * MB)
    assert found.unknown == ("a",) and found.total_s == 3.0


drawn = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6).map(float)), min_size=1, max_size=8)
drawn_sizes = st.fixed_dictionaries({key: st.integers(1, 6) for key in "abc"})


@given(drawn, drawn_sizes, st.integers(6, 18))
def test_the_forecast_is_what_the_simulator_finds(uses: Uses, sizes: dict[str, int], room: int):
    found = forecast(timeline(uses), components(**sizes), rates("abc"), room * MB)
    simulated = run(sequence("s", {key: size * MB for key, size in sizes.items()}, uses), ideal(room * MB, MB), OURS)
    assert found.total_s == pytest.approx(simulated.total_s, rel=0.02)


@given(drawn, drawn_sizes, st.integers(6, 18))
def test_on_demand_is_never_forecast_faster_and_the_budget_is_kept(uses: Uses, sizes: dict[str, int], room: int):
    ours = forecast(timeline(uses), components(**sizes), rates("abc"), room * MB)
    theirs = forecast(timeline(uses), components(**sizes), rates("abc"), room * MB, mode=Mode.OFF)
    assert ours.total_s <= theirs.total_s * 1.01
    assert ours.peak_host_bytes <= room * MB
    simulated = run(sequence("s", {key: size * MB for key, size in sizes.items()}, uses), ideal(room * MB, MB), LRU)
    assert theirs.total_s == pytest.approx(simulated.total_s, rel=0.02)
