"""The device mover under the pack's own core, on plain memory where copies arrive late: whatever happens, every byte is right."""

from __future__ import annotations

from typing import Any

import pytest
from mover_answers import CLOSINGS, FAILURES, STORIES, answer, check_closing, check_failure, check_hanging, check_story

from residency.installation.locate import ComfyUI

pytestmark = pytest.mark.timeout(900)  # the first of them waits for all stories: three minutes on a loaded machine

MUTANTS = (
    "evicts a page whose copy is under way",
    "forgets a write-back",
    "brings without room",
    "loses a refusal",
    "keeps the images of an exchange that has failed",
)


@pytest.fixture(scope="module")
def told(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answer(comfyui, tmp_path_factory.mktemp("mover"), 60)


@pytest.mark.parametrize("story", STORIES)
def test_every_byte_is_right_and_every_instruction_answered(told: dict[str, Any], story: str):
    check_story(told[story])


@pytest.mark.usefixtures("found_pins")
@pytest.mark.parametrize("story", FAILURES)
def test_a_copy_that_fails_costs_time_and_nothing_else(told: dict[str, Any], story: str):
    check_failure(told[story])


@pytest.mark.parametrize("story", CLOSINGS)
def test_another_thread_may_close_it_in_the_middle_of_a_copy(told: dict[str, Any], story: str):
    check_closing(told[story])


def test_nobody_waits_for_ever_for_a_device_that_hangs_while_it_is_given_up(told: dict[str, Any]):
    check_hanging(told["hangs"])


@pytest.mark.usefixtures("found_pins")
def test_what_is_pinned_is_never_read_again(told: dict[str, Any]):
    assert told["brings"]["read"] == told["evicts"]["read"] == 0
    assert told["evicts"]["evicted"][0] == "makes room for Node 1; its next use is at visit 3"


def test_with_one_copy_over_two_tiers_each_model_is_read_once_and_no_instruction_is_refused(told: dict[str, Any]):
    assert (told["exchanges"]["first"], told["exchanges"]["read"], told["exchanges"]["refused"]) == (36, 0, 0)


def test_what_fits_nowhere_is_in_the_end_that_of_the_model_that_is_passed_once(told: dict[str, Any]):
    *_, before, last = told["leaves out"]["read"]
    assert last == before and last[0] > 0 and last[1:] == [0, 0]


def test_without_pinned_memory_for_images_what_leaves_is_read_again(told: dict[str, Any]):
    assert 36 < told["no host memory"]["read"] <= 72


@pytest.mark.usefixtures("found_pins")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mover_with_one_rule_broken_is_caught(told: dict[str, Any], mutant: str):
    assert told["mutants"][mutant] and not told["mutants"]["nothing is broken"]
