"""A loop as later versions of ComfyUI have them: rounds are expanded, the body is inhibited, its end is overridden and held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.installation.locate import ComfyUI
from residency.installation.script import answer

DRIVER = Path(__file__).with_name("loop_driver.py")


def told_of(comfyui: ComfyUI, scratch: Path) -> dict[str, Any]:
    """The answer of loop_driver, by story."""
    found: dict[str, Any] = answer(comfyui, DRIVER, comfyui.path, scratch, timeout_s=240)
    return found


@pytest.fixture(scope="module")
def told(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told_of(comfyui, tmp_path_factory.mktemp("loops"))


def test_a_loop_runs_as_in_stock_and_nothing_fails(told: dict[str, Any]):
    guarded = told["guarded"]
    assert guarded["same"] == [True, True, True] and guarded["shown"] is not None
    assert guarded["failures"] == 0 and guarded["outcome"] == ["success"]


def test_each_round_is_a_use_again_and_the_body_that_was_inhibited_is_none(told: dict[str, Any]):
    guarded = told["guarded"]
    assert guarded["body"] == [] and guarded["foretold"]
    # b: in each round, behind the loop, and where its results are collected, as a node that makes nothing of a model saves it
    assert guarded["uses"] == {"loop_a": 3, "loop_b": 5}


def test_what_the_end_of_a_loop_hands_on_is_what_its_body_made(told: dict[str, Any]):
    assert told["guarded"]["behind"] == ["loop_b"]
    assert told["its end forgets"]["behind"] == []


def test_a_plan_that_was_kept_to_through_a_loop_would_fail(told: dict[str, Any]):
    kept = told["keeps to the plan"]
    assert kept["same"] == [True, True, True]  # ComfyUI goes on all the same
    assert kept["failures"] > 0 and kept["outcome"] == ["abandoned"]
