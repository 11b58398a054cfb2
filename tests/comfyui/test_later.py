"""What later versions of ComfyUI and comfy-aimdo do, emulated around the real 0.33: the feature is right or off, and one line says why.

Each story is told twice, the second time without the pack's guard: then the damage shows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from residency.installation.locate import ComfyUI
from residency.installation.script import answer

DRIVER = Path(__file__).with_name("later_driver.py")


def told_of(comfyui: ComfyUI, scratch: Path) -> dict[str, Any]:
    """Story → {of, guarded, unguarded, shown}, as later_driver tells them."""
    stories: dict[str, Any] = answer(comfyui, DRIVER, comfyui.path, scratch, timeout_s=240)
    return stories


@pytest.fixture(scope="module")
def stories(comfyui: ComfyUI, found_pins: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told_of(comfyui, tmp_path_factory.mktemp("later"))


@pytest.fixture
def tell(stories: dict[str, Any]) -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    return lambda name: (stories[name]["guarded"], stories[name]["unguarded"])


def test_each_story_shows_something_else_without_its_guard(stories: dict[str, Any]):
    assert not [name for name, story in stories.items() if len(set(story["shown"])) < 2]


def test_a_recorded_block_that_is_replayed_waits_for_the_copies_of_its_pages(tell: Any):
    guarded, unguarded = tell("graph_hit")
    assert guarded == {"wrong": 0, "announced": 12, "fits": True}
    assert unguarded["wrong"] > 0


def test_where_weights_are_used_behind_the_gate_every_copy_is_waited_for(tell: Any):
    guarded, unguarded = tell("nothing_is_asked_for")
    assert guarded["wrong"] == 0 and guarded["read"] == 0
    assert "12 of 12 weights were filled without passing the gate" in guarded["why"]["the first pass behind its copies"]
    assert len(guarded["lines"]) == 1
    assert unguarded["wrong"] > 0


def test_nothing_of_a_recorded_model_is_moved(tell: Any):
    guarded, unguarded = tell("recorded")
    assert guarded == {"wrong": 0, "reasons": ["ComfyUI has recorded it as a graph that it replays where its weights are now"]}
    assert unguarded["wrong"] > 0


def test_of_a_recorded_model_nothing_is_exchanged(tell: Any):
    guarded, unguarded = tell("recorded_in_an_exchange")
    assert guarded == {"wrong": 0, "taken": 0, "reasons": ["ComfyUI has recorded it as a graph that it replays where its weights are now"]}
    assert unguarded["taken"] > 0 and not unguarded["reasons"]


def test_what_the_pack_does_in_the_middle_of_a_pass_is_no_part_of_its_recording(tell: Any):
    guarded, unguarded = tell("allocations_are_recorded")
    assert guarded["in_a_pass"] > 0 and (guarded["recorded"], guarded["wrong"]) == (0, 0)
    assert unguarded["recorded"] == unguarded["in_a_pass"]


def test_a_proof_does_not_count_for_another_setting_of_the_compiler(tell: Any):
    guarded, unguarded = tell("compiler_is_switched")
    assert guarded == {"wrong": 0, "proved": True}
    assert unguarded["wrong"] > 0


def test_pins_of_a_streamed_model_are_found_whatever_their_buffer_is_called(tell: Any):
    guarded, unguarded = tell("fast_disk")
    assert (guarded["wrong"], guarded["read"], guarded["held"]) == (0, 0, True)
    assert unguarded["read"] > 0


def test_a_streamed_model_without_pins_is_left_to_comfyui_and_one_line_says_why(tell: Any):
    guarded, unguarded = tell("without_pins")
    assert guarded["wrong"] == 0
    assert "from the file at each use, whose drive it takes for a fast one" in guarded["why"]["weights kept in host memory"]
    assert len(guarded["lines"]) == 1 and "of RAM are available" in guarded["lines"][0]
    assert not unguarded["why"]


def test_a_streamed_model_that_ram_can_hold_is_kept_there_and_read_once(tell: Any):
    guarded, unguarded = tell("prefers_ram")
    assert (guarded["wrong"], guarded["first"], guarded["again"]) == (0, 24, 0)
    assert "RAM is preferred to reading what does not fit on the device at each use" in guarded["why"] and len(guarded["lines"]) == 2
    assert guarded["streamed"] == {"a": True, "b": False}  # of the two the one that was used while RAM did not last
    assert guarded["kept"] == {"a": False, "b": False} and guarded["after"] == {"a": True, "b": True}
    assert guarded["others"] == [True, True, True]
    assert unguarded["again"] > 0 and not unguarded["why"]


def test_a_place_that_several_modules_share_is_not_filled_from_the_pin_of_one(tell: Any):
    guarded, unguarded = tell("shared_place")
    assert guarded["wrong"] == 0 and set(guarded["stopped"]) == {"a part of it is not in pinned memory"}
    assert unguarded["wrong"] > 0


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ("unpin_raises", "VBAR unpin failed"),
        ("watermark_raises", "VBAR set_watermark failed"),
        ("fault_raises", "Fault failed: 2"),
    ],
)
def test_an_error_of_aimdo_ends_that_copy_and_three_of_them_the_feature_but_not_the_pack(tell: Any, story: str, message: str):
    guarded, unguarded = tell(story)
    assert (guarded["wrong"], guarded["raised"], guarded["against"]) == (0, 0, 0)
    assert guarded["failures"] >= 3 and guarded["lines"] == 1
    assert guarded["why"]["weights brought to the device ahead of their use"].startswith(
        f"3 failures one after the other, the last one RuntimeError: {message}; choose a mode again to retry"
    )
    assert not guarded["again"]
    assert unguarded["raised"] or unguarded["against"]


def test_a_model_whose_end_cannot_be_left_out_is_loaded_all_the_same(tell: Any):
    guarded, unguarded = tell("leave_out_raises")
    assert (guarded["wrong"], guarded["raised"]) == (0, 0) and guarded["failures"] > 0
    assert unguarded["raised"] > 0


def test_pages_that_stay_pinned_are_those_of_one_copy(tell: Any):
    guarded, unguarded = tell("unpin_does_nothing")
    assert (guarded["wrong"], guarded["models"]) == (0, 1)
    assert "pages stay pinned after they were unpinned" in guarded["why"]["weights brought to the device ahead of their use"]
    assert unguarded["models"] == 4 and not unguarded["why"]


def test_a_model_that_cannot_be_taken_off_the_device_stays_with_the_reason(tell: Any):
    guarded, unguarded = tell("free_raises")
    assert (guarded["wrong"], guarded["raised"]) == (0, "") and guarded["reasons"] == ["RuntimeError: VBAR free_memory failed"]
    assert unguarded["raised"] == "VBAR free_memory failed"


def test_pages_that_are_written_back_otherwise_end_the_exchange_before_anything_is_computed_with_them(tell: Any):
    guarded, unguarded = tell("write_back_differs")
    assert {key: guarded[key] for key in ("wrong", "unanswered", "lost")} == {"wrong": 0, "unanswered": 0, "lost": 0}
    assert "a page that was written back read otherwise" in guarded["why"]["one copy over two tiers"] and guarded["lines"] == 1
    assert unguarded["wrong"] > 0


def test_a_value_of_progress_that_is_told_again_is_no_step(tell: Any):
    guarded, unguarded = tell("unchanged_steps")
    assert guarded["steps"] == 5 and unguarded["steps"] == 9
    # who counts anew may do so again: nobody knows what is left then, nor of a node that has told nothing, nor in the next prompt
    assert guarded["left"] == [3, 3, 3, 2, 2, 1, *[None] * 4] and guarded["of another"] == [None] * 9


def test_a_node_that_a_loop_has_overridden_loads_what_it_says_now(tell: Any):
    guarded, unguarded = tell("overridden")
    assert guarded == {"before": ["later_a"], "once": ["later_b"], "again": ["later_a"]}
    assert unguarded["once"] == ["later_a"]


def test_a_peak_that_torch_does_not_tell_is_not_learned_and_without_the_compiler_it_is(tell: Any):
    guarded, unguarded = tell("compiled")
    assert guarded["peaks"] == {} and "allocates beside torch" in guarded["why"]["working sets of nodes"]
    assert guarded["without"] == {"1": 10**9} and not guarded["why_without"]
    assert unguarded["peaks"] == {"1": 10**9}
