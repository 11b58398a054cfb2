"""A loop as later versions of ComfyUI have them: rounds are expanded, the body is inhibited, its end is overridden and held."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from residency.installation.locate import ComfyUI

DRIVER = Path(__file__).with_name("loop_driver.py")


def told_of(comfyui: ComfyUI, scratch: Path) -> dict[str, Any]:
    """The answer of loop_driver, by story."""
    command = [str(comfyui.python), str(DRIVER), str(comfyui.path), str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(answers[-1].removeprefix("ANSWER "))
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
