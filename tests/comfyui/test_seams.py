"""The seams against the real functions of the ComfyUI that is installed: fitting, restoring, chaining, failing alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from residency.installation import doctor
from residency.installation.locate import ComfyUI
from residency.installation.script import answer

DRIVER = Path(__file__).with_name("seams_driver.py")


@pytest.fixture(scope="module")
def tell(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    scratch = tmp_path_factory.mktemp("seams")
    stories: dict[str, dict[str, Any]] = answer(comfyui, DRIVER, comfyui.path, scratch, timeout_s=240)
    return stories.__getitem__


def test_every_seam_fits_this_comfyui(tell: Any):
    assert [(name, reason) for name, fits, reason in tell("fit")["report"] if not fits] == []


def test_the_doctor_tells_of_every_seam(comfyui: ComfyUI):
    told = {fact.name: fact.value for fact in doctor.look(comfyui) if fact.topic == "features"}
    assert told["pages before use"] == told["model load"] == "on" and len(told) == 16


def test_uninstalling_puts_the_very_same_functions_back(tell: Any):
    assert tell("restored") == {"changed": True, "restored": True, "ran": True, "traced": 1}


def test_a_seam_that_does_not_fit_is_off_alone_and_says_why(tell: Any):
    answer = tell("unfit")
    off = {name: reason for name, fits, reason in answer["fits"] if not fits}
    assert list(off) == ["model load"] and "everything" in off["model load"] and "memory_required" in off["model load"]
    assert answer["installed"] and answer["ran"]


def test_without_an_essential_seam_nothing_is_touched(tell: Any):
    answer = tell("unfit_essential")
    assert not answer["installed"] and answer["untouched"] and answer["ran"]
    assert any("complete_node_execution" in reason for reason in answer["reasons"])


def test_another_packs_wrapper_survives_ours_and_ours_wakes_up_below_it(tell: Any):
    answer = tell("chained")
    assert answer["with_both"] == [3, 1]
    assert answer["without_ours"] == [6, 1] and answer["kept"]
    assert answer["again"] == [9, [3, 3]]


def test_the_timeline_runs_on_into_what_usually_comes_next_or_into_the_queue_as_deep_as_is_wished(tell: Any):
    without_weights, first, the_same_again, three_deep, one_deep = tell("ahead")["told"]
    assert without_weights == [3, 3, None]  # the next time nothing of it is read
    assert first == the_same_again == [1, 2, 1]  # a prompt that was never seen may be changed and queued again as well
    assert three_deep == [3, 3 + 3 * 2, None] and one_deep == [3, 3 + 2, None]


def test_models_whose_nodes_are_answered_from_the_cache_are_expected_no_more_than_they_are_used(tell: Any):
    assert tell("unchanged")["told"] == [["encoder", "one"], ["two"]]


def test_when_our_own_code_raises_every_prompt_runs_and_the_hooks_leave(tell: Any):
    assert tell("failing") == {"ran": [True] * 4, "failures": 3, "installed": False, "restored": True}


def test_whatever_the_executor_asks_of_us_may_raise_and_the_prompt_runs(tell: Any):
    """Out of `pick` it would end ComfyUI's worker, and no prompt would run any more."""
    answer = tell("raising")
    assert len(answer) > 10 and answer == {name: [True, True, True] for name in answer}


def test_a_choice_of_ours_that_raises_or_is_not_ready_leaves_comfyuis_own(tell: Any):
    answer = tell("choosing")
    assert answer["raising"] == answer["nowhere"] == answer["stock"] == ["a", "save a", "b", "save b"]
    assert answer["asked"] == [2] and answer["failures"] == 1


def test_the_streams_on_which_weights_cross_are_raised_and_put_back(tell: Any):
    answer = tell("streams")
    assert answer["on, off, on, off"] == [[4, "0123"], [4, "0123"], [2, "0101"], [4, "0145"], [2, "0101"], [2, "0101"]]
    assert answer["more of its own"][0] == 8 and answer["none"][0] == 0 and answer["chosen"][0] == 2


def test_weights_get_their_places_evenly_over_the_pass_while_a_prompt_runs_under_the_pack(tell: Any):
    answer = tell("layout")
    small, stock = list(range(0, 24, 3)), answer["stock"]
    assert answer["fits"] and answer["no prompt"] == answer["placed"] == answer["removed"] == stock
    assert stock[8:16] == sorted(range(2, 24, 3), key=str)  # the largest by name, behind them the others
    spread = answer["spread"]
    assert sorted(spread[:8]) == small and sorted(spread) == list(range(24))
    last = sorted(spread[-6:])  # of 16 large ones, in 24 places
    assert max(after - before for before, after in zip([-1, *last], [*last, 24], strict=True)) <= 8
