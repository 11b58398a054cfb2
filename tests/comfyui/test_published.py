"""Files of published size, which no test writes: what they would hold, and small ones written in the same way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from residency.installation.locate import ComfyUI

DRIVER = Path(__file__).with_name("published_driver.py")
# GB, of the files that the templates name
PUBLISHED = {
    "diffusion_models/wan_high.safetensors": 14.3,
    "text_encoders/umt5.safetensors": 6.7,
    "loras/wan_low_lora.safetensors": 1.2,
    "diffusion_models/h3.safetensors": 19.5,
    "text_encoders/h3_qwen3vl.safetensors": 18.0,
    "diffusion_models/z_image.safetensors": 12.3,
    "text_encoders/qwen3_4b.safetensors": 8.0,
    "diffusion_models/qwen_image.safetensors": 8.0,
    "text_encoders/qwen25_7b.safetensors": 8.5,
    "text_encoders/qwen_writer.safetensors": 9.5,
    "diffusion_models/krea2.safetensors": 13.0,
    "text_encoders/qwen3vl_4b.safetensors": 5.0,
    "checkpoints/ltx.safetensors": 29.0,
    "text_encoders/gemma3.safetensors": 9.4,
    "LLM/residency_writer/model-00001-of-00004.safetensors": 14.5 / 4,
    "LLM/residency_writer/model-00004-of-00004.safetensors": 14.5 / 4,
}


@pytest.fixture(scope="module")
def told(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [str(comfyui.python), str(DRIVER), str(comfyui.path), str(tmp_path_factory.mktemp("published"))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_has_the_bytes_of_the_published_one(name: str, told: dict[str, Any]):
    assert told["sizes"][name] / 1e9 == pytest.approx(PUBLISHED[name], rel=0.12)


@pytest.mark.parametrize("layout", ["fp8", "fp8_scaled", "int8_convrot", "nvfp4"])
def test_a_matrix_that_was_never_made_is_what_comfyuis_layout_makes_of_one(layout: str, told: dict[str, Any]):
    mine = told["layouts"][layout]
    assert mine["written"] == mine["drawn"] and mine["ones"] == [1.0] * 7
    assert mine["std"] == pytest.approx([1.0, 1.0], rel=0.05)
