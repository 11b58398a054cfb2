from hypothesis import given
from hypothesis import strategies as st
from story import reads

from residency.core.timeline import Timeline, Use, UseKind, Visit


def test_next_use_looks_strictly_ahead():
    timeline = reads("aba")
    assert timeline.next_use("a", -1).position == 0
    assert timeline.next_use("a", 0).position == 2
    assert timeline.next_use("a", 2) is None
    assert timeline.next_use("unknown", 0) is None


def test_next_read_passes_over_uses_that_find_the_weights_loaded():
    visits = [Visit("p", str(i), "Node") for i in range(3)]
    uses = [Use(0, "a", UseKind.LOAD, True), Use(1, "a", UseKind.COMPUTE, False), Use(2, "a", UseKind.LOAD, True)]
    timeline = Timeline.of(visits, uses)
    assert timeline.next_use("a", 0).position == 1
    assert timeline.next_read("a", 0).position == 2


def test_what_is_only_expected_is_no_use_and_no_read_but_says_how_soon_the_component_is_missed():
    asked = reads("abab")
    timeline = Timeline(asked.visits, asked.uses, expected_from=2)
    assert timeline.next_use("a", 0) is None and timeline.next_read("a", 0) is None
    assert timeline.next_read("b", 0).position == 1
    assert timeline.missed_at("a", 0) == 2


@given(st.text("abc-", max_size=30), st.integers(-1, 30))
def test_next_use_is_the_first_one_behind(order, after):
    timeline = reads(order)
    for key in "abc":
        expected = next((i for i, letter in enumerate(order) if letter == key and i > after), None)
        found = timeline.next_use(key, after)
        assert (None if found is None else found.position) == expected
