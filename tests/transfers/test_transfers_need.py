"""What host memory must be left: by copies of weights, as much as everything else was seen to take; by reading ahead, a fixed rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from residency.transfers.machine import headroom_share
from residency.transfers.need import MeasuredNeed, idle_bytes

GIB = 1024**3


def test_before_anything_is_known_four_gibibytes_are_left_or_a_tenth_of_all():
    assert MeasuredNeed(128 * GIB).reserve_bytes == 4 * GIB
    assert MeasuredNeed(32 * GIB).reserve_bytes == int(3.2 * GIB)


def test_on_a_small_machine_a_fifth_is_left_whatever_was_needed():
    need = MeasuredNeed(16 * GIB)
    for _ in range(3):
        assert need.reserve_bytes == int(3.2 * GIB)
        need.prompt_begins()
        need.look(8 * GIB, 0)
        need.look(8 * GIB, 0)


def test_reading_ahead_leaves_a_gibibyte_whatever_was_needed_and_a_fifth_of_a_small_machine():
    """The kernel takes page cache back at once."""
    assert [idle_bytes(total_gib * GIB) for total_gib in (24, 32, 128)] == [GIB] * 3
    assert idle_bytes(16 * GIB) == MeasuredNeed(16 * GIB).reserve_bytes


def test_the_largest_fall_of_the_last_four_prompts_is_left_and_one_more():
    need = MeasuredNeed(128 * GIB)
    for fall in (3, 0, 0, 0, 0):
        need.prompt_begins()
        need.look(40 * GIB, 10 * GIB)
        need.look((40 - fall) * GIB, 10 * GIB)
    assert need.reserve_bytes == 4 * GIB  # the first of five counts until the fifth has ended
    need.prompt_begins()
    assert need.reserve_bytes == 1 * GIB


def test_weights_that_the_process_copies_are_no_need():
    need = MeasuredNeed(128 * GIB)
    need.prompt_begins()
    need.look(40 * GIB, 0)
    need.look(20 * GIB, 20 * GIB)
    need.prompt_begins()
    assert need.reserve_bytes == GIB


def test_a_prompt_that_needs_more_is_believed_while_it_runs():
    need = MeasuredNeed(128 * GIB)
    for _ in range(2):
        need.prompt_begins()
        need.look(40 * GIB, 0)
        need.look(40 * GIB, 0)
    need.look(34 * GIB, 0)
    assert need.reserve_bytes == 7 * GIB


@given(st.integers(1, 200), st.lists(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=5), max_size=8))
def test_never_more_than_the_machines_share_and_never_less_than_nothing(total: int, prompts: list[list[tuple[int, int]]]):
    need = MeasuredNeed(total * GIB)
    for looks in prompts:
        need.prompt_begins()
        for available, copies in looks:
            need.look(available * GIB, copies * GIB)
            assert 0 <= need.reserve_bytes <= int(headroom_share(total * GIB) * total * GIB)
