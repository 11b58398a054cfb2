"""The bound of one prompt: what no schedule can beat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.bench.bound import Lane, Step, bound_s

GB = 10**9
ENCODE, DRAW, REFINE = Step(1.0, {"clip": 10 * GB}), Step(4.0, {"a": 20 * GB}, 20), Step(4.0, {"b": 20 * GB}, 20)


def test_with_everything_in_place_the_bound_is_the_compute():
    assert bound_s([ENCODE, DRAW, REFINE], []) == 9.0
    assert bound_s([ENCODE, DRAW, REFINE], [Lane(2 * GB, held_bytes=50 * GB)]) == 9.0


def test_a_cold_prompt_reads_all_and_then_makes_all_but_the_first_pass_of_the_last_use():
    assert bound_s([ENCODE, DRAW, REFINE], [Lane(2 * GB)]) == pytest.approx(25.0 + 4.0 * 19 / 20)


def test_a_fast_drive_is_hidden_behind_the_compute_that_follows_the_first_use():
    assert bound_s([ENCODE, DRAW, REFINE], [Lane(100 * GB)]) == 9.0


def test_what_a_tier_may_have_held_at_the_start_need_not_come():
    assert bound_s([ENCODE, DRAW, REFINE], [Lane(2 * GB, held_bytes=30 * GB)]) == pytest.approx(10.0 + 4.0 * 19 / 20)


def test_a_component_that_is_used_twice_comes_once():
    again = Step(1.0, {"clip": 10 * GB})
    assert bound_s([ENCODE, again], [Lane(10 * GB)]) == pytest.approx(2.0)


def test_the_slower_of_two_lanes_decides():
    lanes = [Lane(40 * GB), Lane(2 * GB)]
    assert bound_s([ENCODE, DRAW, REFINE], lanes) == bound_s([ENCODE, DRAW, REFINE], lanes[1:])


def test_a_rate_of_zero_is_refused_by_name():
    with pytest.raises(ValueError, match=r"must be positive: \[0\.0\]"):
        bound_s([ENCODE], [Lane(0.0)])


steps = st.lists(
    st.builds(
        Step,
        st.floats(0, 10),
        st.dictionaries(st.sampled_from("abc"), st.just(5 * GB), max_size=2),
        st.integers(1, 20),
    ),
    max_size=6,
)


@given(steps, st.floats(0.5, 50), st.integers(0, 20))
def test_more_in_place_or_a_faster_drive_never_raises_the_bound_and_compute_is_its_floor(program: list[Step], rate: float, held: int):
    slow = bound_s(program, [Lane(rate * GB)])
    assert slow >= bound_s(program, [Lane(2 * rate * GB)]) >= sum(step.compute_s for step in program) - 1e-9
    assert slow >= bound_s(program, [Lane(rate * GB, held * GB)])
