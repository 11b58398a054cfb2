"""The bound of one prompt: what no schedule can beat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.simulate import Step
from residency.simulate.bound import Lane, bound_once_s

GB = 10**9
SIZES = {"clip": 10 * GB, "a": 20 * GB, "b": 20 * GB, "c": 5 * GB}


def step(compute_s: float, *components: str, passes: int = 1) -> Step:
    return Step("1", "Node", compute_s, components, passes)


def bound_s(steps: list[Step], lanes: list[Lane]) -> float:
    return bound_once_s(steps, SIZES, lanes)


ENCODE, DRAW, REFINE = step(1.0, "clip"), step(4.0, "a", passes=20), step(4.0, "b", passes=20)


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
    again = step(1.0, "clip")
    assert bound_s([ENCODE, again], [Lane(10 * GB)]) == pytest.approx(2.0)


def test_the_slower_of_two_lanes_decides():
    lanes = [Lane(40 * GB), Lane(2 * GB)]
    assert bound_s([ENCODE, DRAW, REFINE], lanes) == bound_s([ENCODE, DRAW, REFINE], lanes[1:])


def test_a_rate_of_zero_is_refused_by_name():
    with pytest.raises(ValueError, match=r"must be positive: \[0\.0\]"):
        bound_s([ENCODE], [Lane(0.0)])


steps = st.lists(
    st.builds(
        lambda compute_s, components, passes: step(compute_s, *components, passes=passes),
        st.floats(0, 10),
        st.sets(st.sampled_from("abc"), max_size=2),
        st.integers(1, 20),
    ),
    max_size=6,
)


@given(steps, st.floats(0.5, 50), st.integers(0, 20))
def test_more_in_place_or_a_faster_drive_never_raises_the_bound_and_compute_is_its_floor(program: list[Step], rate: float, held: int):
    slow = bound_s(program, [Lane(rate * GB)])
    assert slow >= bound_s(program, [Lane(2 * rate * GB)]) >= sum(step.compute_s for step in program) - 1e-9
    assert slow >= bound_s(program, [Lane(rate * GB, held * GB)])
