"""The demo's order of runs, sizes and words: from numbers to what a newcomer reads."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency.cli import card
from residency.cli.demo_text import Setting, beforehand, told
from residency.core.component import Mode
from residency.demo.paired import least_pairs
from residency.demo.runs import MODES, MOST_PAIRS, PATIENCE_S, Measured, affordable, identical, measure, of, turns, typical
from residency.demo.sizing import SIZES_MIB, USUAL_MIB, choose_mib, files_bytes

GIB = 2**30
FILES_BYTES = 1440 << 20
SETTING = Setting("ComfyUI 0.33.0 (COMFYUI_PATH)", "images", FILES_BYTES, 2.5e9)


def run(scenario: str, mode: Mode, seconds: float, cold_bytes: int | None = FILES_BYTES, result: str = "", seed: int = 0) -> Measured:
    ahead_bytes = FILES_BYTES if mode is Mode.AUTO and scenario == "cold" else 0
    trace: dict[str, Any] = {"summary": {"prefetched_bytes": ahead_bytes}}
    return Measured(scenario, mode, seconds, cold_bytes, 0 if scenario == "warm" else FILES_BYTES, result, trace, seed)


def runs(scenario: str, off_s: list[float], on_s: list[float], cold_bytes: int | None = FILES_BYTES) -> list[Measured]:
    sides = zip(MODES, (off_s, on_s), strict=True)
    return [run(scenario, mode, seconds, cold_bytes) for mode, side in sides for seconds in side]


def said(measured: list[Measured], setting: Setting = SETTING) -> str:
    return " ".join(" ".join(told(setting, measured)).split())


# --- the order of runs ---


def test_off_and_on_take_turns_and_a_machine_that_grows_slower_treats_both_alike():
    order = [mode for mode, _ in turns(10)]
    places = {mode: sum(place for place, one in enumerate(order) if one is mode) for mode in MODES}

    assert order[:4] == [Mode.OFF, Mode.AUTO, Mode.AUTO, Mode.OFF]
    assert places[Mode.OFF] == places[Mode.AUTO]


@given(st.integers(1, 20))
def test_both_sides_run_the_same_seeds_and_none_twice_in_a_row(blocks: int):
    order = list(turns(2 * blocks, 100))

    assert [Counter(seed for mode, seed in order if mode is side) for side in MODES] == [Counter(range(100, 100 + 2 * blocks))] * 2
    assert all(before != after for (_, before), (_, after) in pairwise(order))


def test_every_host_is_measured_alike_and_its_first_runs_do_not_count():
    asked: list[tuple[str, Mode, int]] = []

    def run_once(scenario: str, mode: Mode, seed: int) -> Measured:
        asked.append((scenario, mode, seed))
        return run(scenario, mode, 1.0, seed=seed)

    measured = measure(run_once, 2, lambda *_: None)

    assert [(scenario, mode) for scenario, mode, _ in asked[:2]] == [("cold", Mode.OFF), ("cold", Mode.AUTO)]
    assert asked[2:] == [(one.scenario, one.mode, one.seed) for one in measured]
    assert len(measured) == 8
    assert len({seed for _, _, seed in asked}) == 2 + 2 + 2


@given(st.floats(0, 1e4))
def test_a_slow_machine_runs_fewer_pairs_and_never_too_few_to_tell(pair_s: float):
    pairs = affordable(pair_s)

    assert pairs % 2 == 0 and least_pairs() <= pairs <= MOST_PAIRS
    assert pairs * pair_s <= PATIENCE_S or pairs == least_pairs()


def test_the_typical_run_is_the_one_of_the_median():
    measured = runs("cold", [3.0, 9.0, 1.0, 2.0], [])

    assert [one.seconds for one in of(measured, "cold", Mode.OFF)] == [3.0, 9.0, 1.0, 2.0]
    assert typical(measured, "cold", Mode.OFF) is measured[3]
    assert typical(measured, "warm", Mode.OFF) is None


def test_results_of_the_same_seed_are_compared_and_of_no_other():
    def one(mode: Mode, result: str, seed: int) -> Measured:
        return run("cold", mode, 1.0, result=result, seed=seed)

    assert identical([one(Mode.OFF, "a", 1), one(Mode.AUTO, "b", 2), one(Mode.AUTO, "a", 1), one(Mode.OFF, "b", 2)])
    assert not identical([one(Mode.OFF, "a", 1), one(Mode.AUTO, "b", 1)])
    assert "DIFFERENT" in told(SETTING, [one(Mode.OFF, "a", 1), one(Mode.AUTO, "b", 1)])[-1]


# --- sizes ---


@pytest.mark.parametrize(
    ("gb_per_s", "mib"), [(0.1, 150), (0.5, 150), (1.5, 300), (2.6, 600), (3.5, 600), (4.7, 1200), (14.0, 1200), (0.0, USUAL_MIB)]
)
def test_a_faster_drive_gets_larger_models(gb_per_s: float, mib: int):
    assert choose_mib(gb_per_s * 1e9, 64 * GIB, 64 * GIB) == mib


@given(st.floats(0, 1e11), st.integers(0, 16 * GIB), st.integers(0, 16 * GIB), st.sets(st.sampled_from(SIZES_MIB)))
def test_models_fit_into_ram_and_new_ones_on_the_disk(rate: float, ram_bytes: int, disk_bytes: int, there: set[int]):
    mib = choose_mib(rate, ram_bytes, disk_bytes, there)

    if mib is None:
        assert ram_bytes < 2 * files_bytes(SIZES_MIB[0]) or disk_bytes < files_bytes(SIZES_MIB[0])
    else:
        assert 2 * files_bytes(mib) <= ram_bytes
        assert mib in there or files_bytes(mib) <= disk_bytes


def test_models_that_are_there_are_used_where_they_are_near_enough():
    assert choose_mib(2.6e9, 64 * GIB, 64 * GIB, {300}) == 300
    assert choose_mib(1.5e9, 64 * GIB, 64 * GIB, {600}) == 600
    assert choose_mib(2.6e9, 64 * GIB, 64 * GIB, {300, 600}) == 600
    assert choose_mib(14e9, 64 * GIB, 64 * GIB, {150}) == 1200


# --- words ---


def test_a_gain_is_told_with_what_it_rests_on():
    off_s, on_s = [3.5 + 0.01 * number for number in range(10)], [2.9 + 0.01 * number for number in range(10)]
    text = said(runs("cold", off_s, on_s) + runs("warm", [1.8, 1.81] * 5, [1.81, 1.8] * 5))

    assert "cold Every file has to be read: nothing of them was in the page cache, checked before each run. 0.60 s less (17 %)" in text
    assert "warm Everything is in RAM already, so there is nothing to gain here; this shows what the pack costs. No difference" in text
    assert "other programs" not in text


def test_what_one_run_of_each_differs_by_is_no_slowdown():
    """Seen on a quiet machine: warm 1.93 s off and 2.52 s on, told as 0.77 times as fast."""
    text = said(runs("cold", [3.71, 3.9], [3.62, 3.7]) + runs("warm", [1.93, 2.0], [2.52, 2.6]))

    assert "×" not in text
    assert text.count("too few to tell a difference from chance") == 2
    assert "more" not in text.replace("no more", "")


def test_noise_on_a_busy_machine_is_called_noise():
    off_s, on_s = [5.7, 4.6, 7.5, 3.4, 11.8, 5.7, 4.5, 7.4, 5.0, 6.0], [4.5, 3.8, 6.7, 2.8, 10.3, 9.0, 8.0, 3.0, 6.0, 7.0]
    text = said(runs("cold", off_s, on_s) + runs("warm", off_s, on_s))

    assert text.count("No difference that could be measured") == 2
    assert "Runs of the same kind differ much: other programs are at work here." in text
    assert "The drive needs 0.60 s for the files: less than what chance makes of these runs" in text


def test_runs_that_were_not_cold_are_not_called_cold():
    cold = ([3.0] * 6, [2.0] * 6)
    assert "NOT COLD: the system kept up to 720 MiB of the files in its page cache" in said(
        runs("cold", *cold, cold_bytes=FILES_BYTES // 2)
    )
    assert "99.0 % of them or more was out of the page cache" in said(runs("cold", *cold, cold_bytes=int(FILES_BYTES * 0.99)))
    assert "this system does not tell what its page cache holds" in said(runs("cold", *cold, cold_bytes=None))


def test_one_warm_run_among_cold_ones_is_told():
    mixed = [*runs("cold", [3.0] * 6, [2.0] * 5), run("cold", Mode.AUTO, 1.0, cold_bytes=0)]

    assert "NOT COLD" in said(mixed)


def test_an_unknown_drive_is_not_talked_about():
    text = said(runs("cold", [1.0, 2.0] * 4, [2.0, 1.0] * 4), Setting("here", "results", FILES_BYTES, 0.0))

    assert "drive reads" not in text
    assert "The drive needs" not in text


@given(st.lists(st.tuples(st.floats(0.01, 1000), st.floats(0.01, 1000)), max_size=12), st.one_of(st.none(), st.integers(0, FILES_BYTES)))
def test_whatever_was_measured_fits_a_terminal_of_100_columns(pairs: list[tuple[float, float]], cold_bytes: int | None):
    off_s, on_s = [one for one, _ in pairs], [other for _, other in pairs]
    lines = told(SETTING, runs("cold", off_s, on_s, cold_bytes) + runs("warm", on_s, off_s))

    assert max(len(line) for line in lines) <= 100


def test_what_is_going_to_happen_is_said_with_its_time_and_what_stays():
    assert "6 to 10 pairs of cold runs, as many of warm ones, about 2 minutes." in beforehand(None, 0, "cache")
    assert (
        beforehand(10, 0, "cache")
        == "Two experts, the pack off and on in turn: 10 pairs of cold runs, as many of warm ones, about 2 minutes."
    )
    assert beforehand(2, GIB, "cache").endswith(
        "about 1 minute. Before that, once, 1.00 GiB of models with random weights are written to cache."
    )


# --- a card of 12 GB ---


def test_what_a_card_of_12_gb_takes_is_called_simulated_in_every_line():
    lines = card.lines()

    assert len(lines) == 3
    assert all("simulated" in line for line in lines)
    assert "10 times as long as was measured on an H100" in lines[0]


def test_the_simulated_numbers_are_the_simulators_and_the_pack_never_loses():
    told = card.simulate()
    stock, ours = told["stock"], told["ours"]

    assert ours.cold_s < stock.cold_s
    assert ours.warm_s <= stock.warm_s * 1.01
    assert f"{stock.cold_s:.0f} s with stock ComfyUI, {ours.cold_s:.0f} s with the pack" in card.lines()[1]
