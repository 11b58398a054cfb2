"""The stories of the device mover on a real device, with comfy-aimdo's own buffers: `python -m pytest -m gpu`.

Takes 2 GB of device memory, 8 GB of RAM and some minutes.
"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from mover_answers import CLOSINGS, FAILURES, STORIES, answer, check_closing, check_failure, check_story

from residency.installation.locate import find_comfyui

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

TRIALS = 10


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    comfyui = find_comfyui()
    if comfyui is None:
        pytest.skip("THE DEVICE MOVER WAS NOT TRIED ON A REAL DEVICE: no ComfyUI found; set COMFYUI_PATH")
    looks = [str(comfyui.python), "-c", "import torch; print(torch.cuda.is_available())"]
    if "True" not in subprocess.run(looks, capture_output=True, text=True, timeout=120, check=False).stdout:
        pytest.skip("THE DEVICE MOVER WAS NOT TRIED ON A REAL DEVICE: ComfyUI's torch finds no CUDA device here")
    return answer(comfyui, tmp_path_factory.mktemp("mover"), TRIALS, "cuda")


@pytest.mark.parametrize("story", STORIES)
def test_every_byte_is_right_and_every_instruction_answered(told: dict[str, Any], story: str):
    check_story(told[story])


@pytest.mark.parametrize("story", FAILURES)
def test_a_copy_that_fails_costs_time_and_nothing_else(told: dict[str, Any], story: str):
    check_failure(told[story])


@pytest.mark.parametrize("story", CLOSINGS)
def test_another_thread_may_close_it_in_the_middle_of_a_copy(told: dict[str, Any], story: str):
    check_closing(told[story])
