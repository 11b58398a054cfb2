"""What follows from raw times: medians, bounds, targets, and whether the two sides drew the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_story import GB, ran, results, scenario

from residency.bench import results as book
from residency.bench.results import PACK, STOCK, ResultsError, summarise
from residency.bench.scenarios import Target


def test_medians_ratio_and_stall_come_from_the_raw_times():
    warm = scenario(ran(STOCK, 9.5), ran(PACK, 9.0))
    short = scenario(*(ran(STOCK, s) for s in (13.0, 12.0, 20.0)), *(ran(PACK, s) for s in (10.0, 9.5)), device_free_bytes=24 * GB)
    told = summarise(results(S4=warm, S3=short))["scenarios"]["S3"]["summary"]
    assert (told["stock_s"], told["pack_s"], told["ratio"]) == (13.0, 9.75, pytest.approx(13 / 9.75))
    assert told["spread_s"] == {STOCK: [12.0, 20.0], PACK: [9.5, 10.0]}
    assert (told["compute_s"], told["stall_stock_s"], told["stall_pack_s"]) == (9.0, 4.0, 0.75)  # the quickest resident run's


def test_the_stall_that_the_packs_traces_tell_stands_beside_the_time_beyond_compute():
    """Of the whole queue, the middle one of the runs; traces from before stall was measured inside a forward pass are not taken for it."""
    told = [{"stall_s": 0.5, "other_s": 0.1}, {"stall_s": 0.25, "other_s": 0.1}]
    runs = [ran(STOCK, 12.0), *(ran(PACK, 10.0, pack=pack) for pack in (told, [{"stall_s": 9.0, "other_s": 0.1}], told))]
    summary = summarise(results(S3=scenario(*runs)))["scenarios"]["S3"]["summary"]
    assert summary["stall_told_s"] == 0.75
    older = summarise(results(S3=scenario(ran(PACK, 10.0, pack=[{"stall_s": 0.5}]))))["scenarios"]["S3"]["summary"]
    assert older["stall_told_s"] is None


def test_the_bound_of_a_cold_prompt_uses_the_drive_and_of_a_warm_one_what_the_tiers_may_hold():
    every = results(S4=scenario(ran(STOCK, 9.0)), S1=scenario(ran(STOCK, 70.0), cold=True), S3=scenario(device_free_bytes=24 * GB))
    told = {name: raw["summary"]["bound_s"] for name, raw in summarise(every)["scenarios"].items()}
    assert told == {"S4": 9.0, "S1": pytest.approx(25 + 4 * 19 / 20), "S3": 9.0}


def test_without_a_resident_run_nobody_claims_a_bound():
    told = summarise(results(S1=scenario(ran(STOCK, 70.0), ran(PACK, 50.0), cold=True)))["scenarios"]["S1"]["summary"]
    assert (told["bound_s"], told["over_bound"], told["stall_stock_s"], told["reached"]) == (None, None, None, None)


@pytest.mark.parametrize(
    ("runs", "same"),
    [
        ([ran(STOCK, 1), ran(PACK, 1)], True),
        ([ran(STOCK, 1), ran(PACK, 1, digest="other")], False),
        ([ran(STOCK, 1, number=1), ran(PACK, 1, number=2)], None),
        ([ran(STOCK, 1, blank=True), ran(PACK, 1, blank=True)], None),
        ([ran(STOCK, 1, blank=True), ran(PACK, 1)], False),
        ([], None),
    ],
)
def test_images_are_identical_only_where_both_sides_drew_the_same_prompt_and_it_shows_something(
    runs: list[dict[str, object]], same: bool | None
):
    assert book.identical(runs) is same


@pytest.mark.parametrize(
    ("target", "told", "reached"),
    [
        (Target(0.99), {"ratio": 1.0}, True),
        (Target(0.99), {"ratio": 0.98}, False),
        (Target(1.7, over_bound=1.25), {"ratio": 1.8, "over_bound": 1.2}, True),
        (Target(1.7, over_bound=1.25), {"ratio": 1.8, "over_bound": 1.3}, False),
        (Target(1.7, over_bound=1.25), {"ratio": 1.6, "over_bound": None}, False),
        (Target(1.7, over_bound=1.25), {"ratio": 1.8, "over_bound": None}, None),
        (Target(0.99, stall_gone=0.4), {"ratio": 1.2, "stall_stock_s": 4.0, "stall_pack_s": 2.4}, True),
        (Target(0.99, stall_gone=0.4), {"ratio": 1.2, "stall_stock_s": 4.0, "stall_pack_s": 2.5}, False),
        (Target(0.99), {"ratio": None}, None),
    ],
)
def test_a_target_is_reached_missed_or_not_known(target: Target, told: dict[str, float | None], reached: bool | None):
    unknown = dict.fromkeys(("ratio", "over_bound", "stall_stock_s", "stall_pack_s"))
    assert book.reached(target, unknown | told) is reached


def test_no_speed_reaches_a_target_with_other_images():
    both = scenario(ran(STOCK, 10.0), ran(PACK, 5.0, digest="other"), target=Target(0.99))
    assert summarise(results(S4=both))["scenarios"]["S4"]["summary"]["reached"] is False


def test_files_are_merged_and_the_last_one_that_has_a_scenario_tells_it(tmp_path: Path):
    early = results(S4=scenario(ran(STOCK, 9.0)), S1=scenario(ran(STOCK, 99.0), cold=True))
    late = results(S1=scenario(ran(STOCK, 70.0), cold=True))
    for name, one in (("early", early), ("late", late)):
        book.write(one, tmp_path / f"{name}.json")
    merged = book.read([tmp_path / "early.json", tmp_path / "late.json"])["scenarios"]
    assert (merged["S1"]["summary"]["stock_s"], merged["S1"]["summary"]["compute_s"]) == (70.0, 9.0)


def test_sides_that_were_run_one_after_the_other_on_one_machine_stand_side_by_side(tmp_path: Path):
    def told(name: str, boot: str, *runs: dict[str, Any]) -> Path:
        one = scenario(*runs)
        book.write(results(S4={**one, "machine": {**one["machine"], "boot": boot}}), tmp_path / name)
        return tmp_path / name

    stock, pack = told("stock.json", "b", ran(STOCK, 9.0)), told("pack.json", "b", ran(PACK, 6.0))
    elsewhere, again = told("elsewhere.json", "c", ran(PACK, 6.0)), told("again.json", "b", ran(PACK, 5.0))
    for files, stock_s, pack_s in (([stock, pack], 9.0, 6.0), ([stock, elsewhere], None, 6.0), ([stock, pack, again], 9.0, 5.0)):
        summary = book.read(files)["scenarios"]["S4"]["summary"]
        assert (summary["stock_s"], summary["pack_s"]) == (stock_s, pack_s)


@pytest.mark.parametrize("content", ["", "{}", '{"version": 99, "scenarios": {}}', "[]"])
def test_a_file_that_is_no_results_file_is_refused_by_name(tmp_path: Path, content: str):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ResultsError, match=r"odd\.json"):
        book.read([tmp_path / "odd.json"])


def test_results_of_two_sizes_do_not_go_together(tmp_path: Path):
    book.write(results(), tmp_path / "full.json")
    (tmp_path / "tiny.json").write_text(json.dumps({**results(), "size": "tiny"}))
    with pytest.raises(ResultsError, match="size tiny"):
        book.read([tmp_path / "full.json", tmp_path / "tiny.json"])
