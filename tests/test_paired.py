"""Two ways of doing the same, timed in pairs: noise is never told as a difference, and no word contradicts a number."""

from __future__ import annotations

import random
import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.demo.paired import LEVEL, Comparison, Verdict, compare, least_pairs, sentence, spread

SEEDS = 2000
TOLD = (Verdict.LESS, Verdict.MORE)

seconds = st.floats(0.0, 1000.0, allow_nan=False)
runs = st.lists(st.tuples(seconds, seconds), max_size=24)


# --- chance ---


@pytest.mark.parametrize("pairs", [6, 8, 10, 13])
@pytest.mark.parametrize("noise", ["even", "long tail", "two speeds"])
def test_two_sides_of_the_same_distribution_differ_as_seldom_as_the_level_says(pairs: int, noise: str):
    draw = {
        "even": lambda chance: chance.uniform(1.9, 2.1),
        "long tail": lambda chance: 1.9 + chance.expovariate(4.0),
        "two speeds": lambda chance: round(chance.choice((0.2, 0.4)) + chance.gauss(0.0, 0.01), 3),
    }[noise]
    wrong, level = 0, 0.0
    for seed in range(SEEDS):
        chance = random.Random(seed)
        compared = compare([draw(chance) for _ in range(pairs)], [draw(chance) for _ in range(pairs)])
        wrong += compared.verdict in TOLD
        level = 1 - compared.confidence

    assert 0 < level <= LEVEL
    assert wrong / SEEDS <= level + 3 * (level * (1 - level) / SEEDS) ** 0.5  # three standard deviations


def test_the_confidence_is_what_counting_every_way_of_drawing_signs_gives():
    """Of ten differences, each positive or negative, those with at most one of the other sign are told: 11 ways on either side of 1,024."""
    sizes = range(1, 11)
    told = [
        compare([50.0 + sign * size for sign, size in zip(signs, sizes, strict=True)], [50.0] * 10) for signs in product((-1, 1), repeat=10)
    ]
    low = sum(one.interval_s is not None and one.interval_s[0] > 0 for one in told)
    high = sum(one.interval_s is not None and one.interval_s[1] < 0 for one in told)

    assert low == high == 11
    assert {one.confidence for one in told} == {1 - 22 / 2**10}


@given(st.lists(st.tuples(st.floats(1.0, 1.2), st.floats(1.0, 1.2)), min_size=least_pairs(), max_size=24), st.floats(0.8, 100.0))
def test_a_shift_of_many_spreads_is_a_difference(pairs: list[tuple[float, float]], shift_s: float):
    slow, quick = [one + shift_s for one, _ in pairs], [other for _, other in pairs]

    assert compare(slow, quick).verdict is Verdict.LESS
    assert compare(quick, slow).verdict is Verdict.MORE


def test_one_run_that_something_else_slowed_down_makes_no_difference_and_hides_none():
    quiet = [2.00, 2.01, 1.99, 2.02, 2.00, 1.98, 2.01, 2.00, 1.99, 2.01]
    quicker = [one - 0.5 for one in quiet]

    assert compare([*quiet[:-1], 9.0], quiet).verdict is Verdict.NONE
    assert compare(quiet, [*quicker[:-1], 9.0]).verdict is Verdict.LESS


def test_a_machine_that_grows_steadily_slower_hides_no_difference():
    off = [2.0 + number for number in range(10)]

    assert compare(off, [one - 0.3 for one in off]).verdict is Verdict.LESS


# --- words ---


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"(\d+\.\d+) s", text)]


@given(runs)
def test_the_words_never_contradict_the_numbers_beside_them(pairs: list[tuple[float, float]]):
    compared = compare([one for one, _ in pairs], [other for _, other in pairs])
    said = sentence(compared)

    if compared.verdict in TOLD:
        saved_s, on_s, off_s, low_s, high_s = numbers(said)
        assert 0 < low_s <= saved_s <= high_s
        word, other = ("less", "more") if on_s < off_s else ("more", "less")
        assert on_s != off_s
        assert said.startswith(f"{saved_s:.{compared.decimals}f} s {word}")
        assert other not in said
    else:
        assert said.startswith("No difference") == (compared.verdict is Verdict.NONE)
        assert "too few" in said or "Nothing" in said or compared.verdict is Verdict.NONE


@given(runs)
def test_the_sides_change_places_and_the_answer_is_the_same(pairs: list[tuple[float, float]]):
    there = compare([one for one, _ in pairs], [other for _, other in pairs])
    back = compare([other for _, other in pairs], [one for one, _ in pairs])
    turned = {Verdict.LESS: Verdict.MORE, Verdict.MORE: Verdict.LESS}

    assert back.verdict is turned.get(there.verdict, there.verdict)
    assert (back.first, back.second) == (there.second, there.first)
    if there.interval_s and back.interval_s:
        assert back.interval_s == (-there.interval_s[1], -there.interval_s[0])


def test_a_difference_is_told_with_what_it_rests_on():
    off = [3.70, 3.60, 3.80, 3.90, 3.70, 3.75, 3.72, 3.66, 3.80, 3.71]
    on = [3.00, 3.10, 3.20, 3.05, 3.01, 3.08, 3.00, 3.10, 3.20, 3.10]

    sure = "medians of 10 pairs, 10 of them so; 98 % confidence: 0.56 s to 0.72 s"
    less = f"0.64 s less (17 %): 3.09 s with the pack, 3.71 s without ({sure} less)."
    more = f"0.64 s more (21 %): 3.71 s with the pack, 3.09 s without ({sure} more)."
    assert sentence(compare(off, on)) == less
    assert sentence(compare(on, off)) == more


def test_inside_the_noise_no_word_says_slower_or_faster():
    off = [0.212, 0.210, 0.215, 0.211, 0.213, 0.212, 0.214, 0.209]
    on = [0.213, 0.212, 0.210, 0.214, 0.211, 0.213, 0.212, 0.215]
    said = sentence(compare(off, on))

    assert said == (
        "No difference that could be measured: 0.212 s with the pack, 0.212 s without (medians of 8 pairs; single runs 0.209 s to 0.215 s; "
        "99 % confidence: 0.005 s less to 0.006 s more)."
    )


def test_a_difference_that_rounding_would_hide_is_none():
    assert compare([2.004] * 10, [2.003] * 10).verdict is Verdict.NONE
    assert compare([0.204] * 10, [0.203] * 10).verdict is Verdict.LESS


@pytest.mark.parametrize("pairs", range(1, 6))
def test_too_few_pairs_are_no_answer_however_far_apart(pairs: int):
    compared = compare([100.0] * pairs, [1.0] * pairs)

    assert compared.verdict is Verdict.TOO_FEW
    assert f"medians of {pairs} pair" in sentence(compared)
    assert "6 are needed" in sentence(compared)


def test_nothing_measured_is_said():
    assert sentence(compare([], [])) == "Nothing was measured."
    assert compare([], []) == Comparison(Verdict.TOO_FEW)
    assert spread([]) is None


def test_a_run_without_its_partner_is_refused():
    with pytest.raises(ValueError, match="zip"):
        compare([1.0, 2.0], [1.0])


def test_the_spread_is_the_middle_half_and_the_ends():
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])

    assert found is not None
    assert (found.median_s, found.low_s, found.high_s, found.least_s, found.most_s) == (3.0, 2.0, 4.0, 1.0, 5.0)
