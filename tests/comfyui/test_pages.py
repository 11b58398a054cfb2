"""Weights that lie on the device or in host memory, never both: whatever happens, what is computed with is what the file holds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from residency.locate import ComfyUI

DRIVER = Path(__file__).with_name("pages_driver.py")
TRIALS = 300


@pytest.fixture(scope="module")
def seen(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [str(comfyui.python), str(DRIVER), str(comfyui.path), str(tmp_path_factory.mktemp("pages")), str(TRIALS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(answers[-1].removeprefix("ANSWER "))
    return found


def test_no_module_ever_computes_with_other_bytes_than_its_own(seen: dict[str, Any]):
    assert seen["wrong"] == 0


def test_every_slot_is_in_use_or_free_again(seen: dict[str, Any]):
    assert seen["lost"] == 0


def test_what_both_tiers_hold_together_is_read_once(seen: dict[str, Any]):
    assert seen["rounds"] == [36, 0, 0]
