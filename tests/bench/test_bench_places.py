"""Each prompt by its place on its server: seconds, bytes from the drive, and targets that hold for every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_story import GB, ran, results, scenario

from residency.bench import markdown, places
from residency.bench import results as book
from residency.bench.results import PACK, STOCK, summarise
from residency.bench.scenarios import Target


def at(side: str, *seconds: float, read: float | None = 0.0, first: int = 2, round_number: int = 0) -> list[dict[str, Any]]:
    """Measured prompts of one server in turn, `read` bytes from the drive before each."""
    found = []
    for place, one in enumerate(seconds, first):
        number = 10 * round_number + place
        found.append({**ran(side, one, number), "round": round_number, "place": place, "drive_bytes": read, "parts": []})
    return found


def told(*runs: dict[str, Any], target: Target | None = None) -> dict[str, Any]:
    raw = scenario(*runs, target=target or Target(0.99))
    found: dict[str, Any] = summarise(results(C1=raw))["scenarios"]["C1"]["summary"]
    return found


def test_each_place_has_its_seconds_its_bytes_and_the_side_its_worst_ratio():
    found = told(*at(STOCK, 30.0, 28.0, 20.0, read=9e9), *at(PACK, 15.0, 10.0, 10.0, read=3e9))["sides"]
    assert [(one["place"], one["seconds"], one["drive_bytes"]) for one in found[PACK]["places"]] == [
        (2, 15, 3e9),
        (3, 10, 3e9),
        (4, 10, 3e9),
    ]
    assert (found[PACK]["ratio"], found[PACK]["least_ratio"]) == (2.8, 2.0)
    assert (found[PACK]["most_s"], found[PACK]["most_drive_bytes"]) == (15.0, 3e9)


def test_several_rounds_give_the_median_of_each_place():
    rounds = [at(PACK, *seconds, read=read, round_number=n) for n, (*seconds, read) in enumerate([(9, 5, 1e9), (7, 8, 2e9), (8, 4, 6e9)])]
    (second, third) = told(*(one for each in rounds for one in each))["sides"][PACK]["places"]
    assert (second["seconds"], third["seconds"], third["drive_bytes"]) == (8, 5, 2e9)


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target(1.9), True),
        (Target(1.9, every=True), False),  # the third: 18 s against 10 s
        (Target(1.7, every=True), True),
        (Target(1.0, pack_s=12.0), True),
        (Target(1.0, pack_s=12.0, every=True), False),
        (Target(1.0, pack_s=14.0, every=True), True),
        (Target(1.0, drive_bytes=1), False),
        (Target(1.0, drive_bytes=3 * GB), True),
    ],
)
def test_a_target_for_every_prompt_is_missed_by_the_worst_one(target: Target, reached: bool):
    runs = [*at(STOCK, 30.0, 18.0, 30.0, 22.0), *at(PACK, 14.0, 10.0, 10.0, 11.0, read=3 * GB)]
    assert told(*runs, target=target)["reached"] is reached


def test_what_the_system_does_not_tell_is_not_reached_nor_missed():
    runs = [*at(STOCK, 30.0, read=None), *at(PACK, 10.0, read=None)]
    assert told(*runs, target=Target(1.0, drive_bytes=0))["reached"] is None


def test_a_third_sides_images_are_compared_as_well_and_it_has_a_row_of_its_own():
    runs = [*at(STOCK, 30.0), *at("before", 20.0, 15.0), *at(PACK, 10.0, 10.0)]
    found = summarise(results(C1=scenario(*runs)))
    assert found["scenarios"]["C1"]["summary"]["identical"] is True
    rows = places.rows(found)
    assert [row[:5] for row in rows] == [
        ["C1", "stock", "30.00", "1.00× (least 1.00)", "30.00 s, 0.0 GB"],
        ["C1", "before", "17.50", "1.71× (least 1.50)", "20.00 s, 0.0 GB"],
        ["C1", "pack", "10.00", "3.00× (least 3.00)", "10.00 s, 0.0 GB"],
    ]
    assert rows[0][5] == "–" and places.head(found)[4:] == ["2", "3"]
    other = [*at(STOCK, 30.0), *({**run, "digest": "other"} for run in at("before", 20.0)), *at(PACK, 10.0)]
    assert told(*other)["identical"] is False


def test_a_queue_that_was_posted_one_by_one_shows_each_prompt():
    parts = [{"seconds": 4.0, "drive_bytes": 0}, {"seconds": 5.0, "drive_bytes": 2 * GB}]
    (one,) = at(PACK, 9.0, read=2 * GB)
    found = summarise(results(C6=scenario({**one, "parts": parts})))
    assert places.rows(found)[0][4] == "9.00 s, 2.0 GB = 4.00 s, 0.0 GB + 5.00 s, 2.0 GB"


def test_what_was_foretold_stands_beside_what_it_took():
    parts = [{"seconds": 4.0, "drive_bytes": 0, "predicted_s": 3.5}, {"seconds": 5.0, "drive_bytes": 0, "predicted_s": None}]
    one, two = at(PACK, 9.0, 8.0)
    found = summarise(results(C6=scenario({**one, "predicted_s": 8.5}, {**two, "predicted_s": None, "parts": parts})))
    each = "8.00 s, 0.0 GB = 4.00 s (3.50 foretold), 0.0 GB + 5.00 s, 0.0 GB"
    assert places.rows(found)[0][4:] == ["9.00 s (8.50 foretold), 0.0 GB", each]


def test_the_page_has_the_table_what_the_sides_are_and_the_bytes_beside_the_medians(tmp_path: Path):
    raw = {**scenario(*at(STOCK, 30.0, read=9e9), *at(PACK, 10.0)), "ways": {STOCK: "without the pack", PACK: "the pack at 1c28e5c"}}
    book.write(summarise(results(C1=raw)), tmp_path / "results.json")
    page = markdown.section(book.read([tmp_path / "results.json"]))
    assert "| C1 | stock | 30.00 | 1.00× (least 1.00) | 30.00 s, 9.0 GB |" in page and " | 9.0 → 0.0 | " in page
    assert "Sides: pack: the pack at 1c28e5c; stock: without the pack." in page


def test_a_file_of_before_knows_no_places_and_is_shown_as_it_was(tmp_path: Path):
    old = results(S4=scenario(ran(STOCK, 9.0), ran(PACK, 9.0), target=Target(0.99)))
    old["scenarios"]["S4"]["target"] = {"ratio": 0.99, "over_bound": None, "stall_gone": None}
    book.write(old, tmp_path / "results.json")
    found = book.read([tmp_path / "results.json"])
    assert found["scenarios"]["S4"]["summary"]["reached"] is True and places.rows(found) == []
    assert "by its place" not in markdown.section(found)
