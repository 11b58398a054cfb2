"""What of a dynamic model's files would have to be read again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from residency.installation.locate import ComfyUI
from residency.installation.script import answer


@pytest.fixture(scope="module")
def missing(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    driver = Path(__file__).with_name("slices_driver.py")
    found: dict[str, Any] = answer(comfyui, driver, comfyui.path, tmp_path_factory.mktemp("slices"), timeout_s=240)
    return found


def of(*numbers: int) -> list[list[Any]]:
    """Weights by the number of their module: even ones lie in the one file, odd ones in the other."""
    return sorted([["one", "other"][number % 2], number] for number in numbers)


def test_nothing_is_missing_of_what_lies_on_the_device_and_all_of_what_lies_nowhere(missing: dict[str, Any]):
    assert missing["cold"] == of(0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)  # 5 has no place in the pages: ComfyUI keeps it
    assert missing["on the device"] == []


def test_the_end_that_is_meant_for_neither_tier_is_missing_wherever_it_lies(missing: dict[str, Any]):
    numbers = sorted(number for _, number in missing["outside"])
    assert numbers == list(range(numbers[0], 12)) and 6 < numbers[0] < 12
    assert missing["all outside"] == missing["cold"]


def test_what_did_not_last_counts_where_weights_have_one_copy_and_what_has_no_room_while_its_node_runs(missing: dict[str, Any]):
    """24 weights' bytes, of which eleven lie in pages; the rest of the files counts as held."""
    held, lost = missing["held"], len(missing["outside"])
    assert held == {"two copies": 24, "one copy": 24 - lost, "one copy, in use": 24 - lost, "outside": 13, "outside, in use": 24}


def test_a_pin_of_the_weights_or_an_image_of_their_pages_is_a_copy_and_a_pin_of_a_patch_is_none(missing: dict[str, Any]):
    assert missing["pinned and imaged"] == of(1, 3, 4, 6, 7, 8, 9, 10, 11)


def test_a_file_that_nobody_can_name_makes_all_of_it_unknown(missing: dict[str, Any]):
    assert missing["another file"] is None
    assert [name for name, _ in missing["one file"]] == ["one"] * 10  # a single file is the one, whatever its handle


def test_what_a_look_has_passed_over_is_told_anew(missing: dict[str, Any]):
    """The core forgets components that a prompt does not know: after a switch to another workflow and back it must hear again."""
    assert missing["told"] == [["a"], [], ["b"], ["a"]]


def test_while_it_is_too_soon_to_ask_the_page_cache_a_pass_tells_what_the_process_has_taken(missing: dict[str, Any]):
    """A second and more between two looks is long: 90 ms a look, and the reader waited nine seconds for room that was there."""
    look, taken = ["Sight", None], [["Taken", {"a": 30}], ["Taken", {"a": 50}]]
    assert missing["told in a pass"] == [look, None, taken[0], None, None, taken[1], look]


def test_looks_in_turn_tell_what_looking_at_each_module_and_byte_tells(missing: dict[str, Any]):
    told = missing["as plainly"]
    assert told["other"] == 0
    assert min(told["looks"] - told["same"] - told["unknown"], told["same"], told["unknown"]) > 100


@pytest.mark.skipif(sys.platform != "linux", reason="no other system is told ahead")
def test_small_weights_that_comfyui_reads_one_by_one_are_asked_for_at_once_before_the_load(missing: dict[str, Any]):
    """Dropped; another kind of model's load; its load."""
    assert missing["announced"] == [0, 0, 10 * 4000]
