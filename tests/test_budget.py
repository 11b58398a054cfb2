import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.core.budget import Budget


def test_what_is_reserved_is_gone_until_it_settles():
    budget = Budget(100)
    assert budget.reserve("a", 60)
    assert budget.available_bytes == 40
    assert not budget.reserve("b", 41)
    budget.settle("a", 50)
    assert (dict(budget.held), dict(budget.in_flight), budget.available_bytes) == ({"a": 50}, {}, 50)


def test_a_shrunken_limit_makes_the_rest_honestly_negative():
    budget = Budget(100)
    budget.settle("a", 80)
    budget.limit_bytes = 50
    assert budget.available_bytes == -30
    assert not budget.reserve("b", 1)


def test_two_transfers_of_one_component_are_a_mistake():
    budget = Budget(100)
    budget.reserve("a", 10)
    with pytest.raises(ValueError, match="a is in flight already"):
        budget.reserve("a", 10)


def test_a_budget_below_zero_is_refused_by_name_and_value():
    with pytest.raises(ValueError, match="-1 bytes"):
        Budget(-1)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 60))))
def test_used_bytes_are_always_the_sum_of_held_and_in_flight(steps):
    budget = Budget(100)
    for key, settle, size in steps:
        if settle:
            budget.settle(key, min(size, 25))
        elif key not in budget.in_flight:
            budget.reserve(key, size)
        assert budget.used_bytes == sum(budget.held.values()) + sum(budget.in_flight.values())
