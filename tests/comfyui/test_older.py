"""A ComfyUI older than the pack can use: it loads, says so in one line and changes nothing. What such a one lacks is taken from the
real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.installation import script
from residency.installation.locate import ComfyUI

DRIVER = Path(__file__).with_name("older_driver.py")


def answer(comfyui: ComfyUI, scratch: Path, lacks: str) -> dict[str, Any]:
    found: dict[str, Any] = script.answer(comfyui, DRIVER, comfyui.path, scratch, lacks, timeout_s=240)
    return found


@pytest.mark.parametrize(
    ("lacks", "said"),
    [("module", "comfy.memory_management"), ("name", "ProgressHandler"), ("method", "add_on_prompt_handler"), ("call", "on_load")],
)
def test_it_loads_says_so_in_one_line_and_changes_nothing(comfyui: ComfyUI, tmp_path: Path, lacks: str, said: str):
    found = answer(comfyui, tmp_path, lacks)
    assert found["loaded"] and found["untouched"] and found["unchanged"] and found["ran"]
    (line,) = found["lines"]
    assert line.startswith("residency: off with this ComfyUI (") and said in line and "nothing was changed" in line


def test_one_that_lacks_nothing_is_wrapped(comfyui: ComfyUI, tmp_path: Path):
    """Or the test above could not fail."""
    found = answer(comfyui, tmp_path, "nothing")
    assert found["loaded"] and found["wrapped"] >= 5 and not found["unchanged"] and found["ran"]
    assert not [line for line in found["lines"] if "off with this ComfyUI" in line]
