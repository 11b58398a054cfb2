"""Weights that lie on the device or in host memory, never both: whatever happens, what is computed with is what the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.installation import script
from residency.installation.locate import ComfyUI

TRIALS = 300


def answer(driver: str, comfyui: ComfyUI, scratch: Path) -> dict[str, Any]:
    found: dict[str, Any] = script.answer(comfyui, Path(__file__).with_name(driver), comfyui.path, scratch, TRIALS, timeout_s=240)
    return found


@pytest.fixture(scope="module")
def seen(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answer("pages_driver.py", comfyui, tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def late(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answer("copies_driver.py", comfyui, tmp_path_factory.mktemp("copies"))


def test_no_module_ever_computes_with_other_bytes_than_its_own(seen: dict[str, Any]):
    assert seen["wrong"] == 0


def test_what_comes_back_in_exchanges_counts_for_the_links_rate(seen: dict[str, Any]):
    """Where each weight has one copy nothing else crosses, and the panel could not say what ComfyUI alone would take."""
    (crossed_bytes, brought_bytes), equal, exchanges = seen["crossed"]
    assert crossed_bytes == brought_bytes > 0
    assert equal == exchanges


def test_no_more_is_pinned_than_the_system_lets_be_with_what_comfyui_has_pinned(seen: dict[str, Any]):
    assert seen["pinned"] == [3, 2]


def test_copies_leave_comfyuis_own_headroom_and_what_it_pins_beside_it(seen: dict[str, Any]):
    """Behind each node ComfyUI gives up pins until its headroom is available: 1 GiB above it they stay."""
    assert seen["left free"] == [4, 4, 9, 51]


def test_of_a_known_working_set_so_much_is_still_to_come_as_neither_torch_has_nor_an_exchange_leaves_free(seen: dict[str, Any]):
    assert seen["beyond"] == [0, 0, 2.5, 1.5]


def test_a_device_that_shares_the_hosts_memory_or_is_reached_otherwise_gets_no_copies_and_says_so(seen: dict[str, Any]):
    assert seen["devices"] == {
        "cpu None": [[], False, False],
        "mps None": [["unified memory"], False, False],
        "cuda True": [["unified memory"], False, False],
        "cuda False": [[], True, True],
        "cuda None": [[], True, True],
        "xpu False": [["weights brought to the device"], False, True],
    }


def test_what_did_not_last_until_a_models_turn_is_known_and_nothing_is_before_its_first(seen: dict[str, Any]):
    first, *others = seen["lost pages"]
    assert [told for told, _ in first] == [0, 0, 0]
    assert all(told == there for turns in others for told, there in turns) and all(sum(told for told, _ in turns) > 0 for turns in others)


def test_every_slot_is_in_use_or_free_again(seen: dict[str, Any]):
    assert seen["lost"] == 0


def test_headroom_that_was_lent_is_free_again(seen: dict[str, Any]):
    assert seen["kept"] == 0


def test_what_both_tiers_hold_together_is_read_once(seen: dict[str, Any]):
    first, *others = seen["rounds"][0]
    assert first == [12, 12, 12] and all(read == [0, 0, 0] for read in others)


def test_what_does_not_fit_is_little_and_the_same_in_every_second_round(seen: dict[str, Any]):
    """52 pages of weights in 50: as in Belady's order the ends of the models are missing in turn."""
    _, *others = seen["rounds"][1]
    assert others[2:] == others[:2] and others[0] != [0, 0, 0]
    assert sum(map(sum, others[:2])) <= 8  # of 72


def test_what_does_not_fit_is_the_end_of_the_model_that_is_passed_once(seen: dict[str, Any]):
    """The same in every round, so that the page cache can hold it; what computes in many passes is there whole."""
    *_, before, last = seen["once"]
    assert last == before and last[0] > 0 and last[1:] == [0, 0]


def test_what_comfyui_finds_room_for_comes_from_host_memory_as_well(seen: dict[str, Any]):
    """The exchange leaves headroom on the device, and ComfyUI computes into it: 0.7 GB of 11.9 were read from the file in each prompt."""
    first, second, *others = seen["found room"]
    assert first == [12, 12, 12] and sum(second) <= 1 and all(read == [0, 0, 0] for read in others)


def test_an_end_that_is_meant_for_neither_tier_is_the_only_thing_read_from_the_second_round_on(seen: dict[str, Any]):
    """Left to the exchanges, the round in which it is found out reads of all three."""
    first, *others = seen["settled"]
    assert first == [12, 12, 12] and all(read == others[0] for read in others) and 0 < others[0][0] < 12 and others[0][1:] == [0, 0]


def test_what_computes_beside_the_weights_takes_no_page_of_which_there_could_be_an_image(seen: dict[str, Any]):
    """It grows while a model asks for its pages. Looked at only where the room seen last had been asked for, others' pages were gone by
    then: 3 modules are read again where all would fit, and 10 instead of 7 where the end of one does not."""
    all_fits, one_end_is_outside = seen["growing"]
    assert all_fits == [[36, 0, 0, 0, 0], [36, 3, 0, 0, 0]]
    assert one_end_is_outside == [[36, 7, 7, 7, 7], [36, 10, 10, 10, 10]]


def test_what_is_known_to_be_computed_with_finds_room_in_free_slots_before_it_is_allocated(seen: dict[str, Any]):
    """Six pages, allocated at once: too late for a look. Unknown, they cost others a third of their modules in each round."""
    assert seen["grown at once"] == [[36, 3, 14, 15, 15], [36, 0, 0, 0, 0]]


def test_a_model_that_is_passed_once_and_was_lost_whole_takes_no_room_from_those_that_would_be_lost_for_it(seen: dict[str, Any]):
    """The two others have 36 pages. Were its loss forgotten, they would lose 10 and 12 of their modules in turn."""
    assert seen["scarce"][-2:] == [[12, 0, 0], [12, 0, 0]]


def test_no_module_computes_before_its_copy_has_arrived(late: dict[str, Any]):
    assert late["gated"]["wrong"] == 0 and late["gated"]["resident"] > 1_000


@pytest.mark.usefixtures("found_pins")
def test_without_the_gate_it_would(late: dict[str, Any]):
    """The trial can fail: copies that nobody waits for are seen."""
    assert late["open"]["wrong"] > 0
