"""The unpacked archive, and nothing else of the project, is the pack of a real ComfyUI."""

from __future__ import annotations

from pathlib import Path

from archive_story import unpack
from comfy_story import pixels, two_experts

from residency.installation.locate import ComfyUI
from residency.installation.server_process import serve


def test_comfyui_runs_a_prompt_with_only_the_archive_and_the_image_is_its_own(comfyui: ComfyUI, models: Path, tmp_path: Path):
    prompt = two_experts()
    prompt["11"] = {"class_type": "ResidencyReport", "inputs": {"after": ["9", 0]}}
    prompt["12"] = {"class_type": "SaveImage", "inputs": {"images": ["11", 0], "filename_prefix": "report"}}
    with serve(comfyui, models, ["--cpu"], pack=None) as stock:
        expected = pixels(stock.run(two_experts()).images[0])
    with serve(comfyui, models, ["--cpu"], pack=unpack(tmp_path / "residency")) as server:
        assert server.why_off() is None
        told = server.run(prompt)
        assert pixels(told.images[0]) == expected
        assert len(told.images) == 2, "the report's picture"
        assert server.get_json("/residency/trace")["outcome"] == "success"
        assert "residency: off" not in server.tail(1000)
