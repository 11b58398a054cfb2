"""The workflows that the pack offers run through the real server in every mode, and draw what ComfyUI's own nodes draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comfy_story import mode, pixels

from residency.installation.server_process import Server
from residency.workflow.convert import to_core, to_residency
from residency.workflow.core_nodes import core_nodes
from residency.workflow.file import parse_workflow

EXAMPLES = sorted(
    path for path in (Path(__file__).parents[2] / "example_workflows").glob("*.json") if path.stem != "write_prompt"
)  # that one needs a language model: test_transformers.py runs it
MODES = ("auto", "high-vram", "balanced", "low-vram", "off")


def small(prompt: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same prompt at a size that a CPU draws at once."""
    smaller = {"width": 64, "height": 64, "steps": 2, "seed": seed, "noise_seed": seed, "batch_size": 1}
    return {
        node_id: {**node, "inputs": {name: smaller.get(name, value) for name, value in node["inputs"].items()}}
        for node_id, node in prompt.items()
    }


def in_mode(prompt: dict[str, Any], name: str) -> dict[str, Any]:
    """The prompt with its Mode node, where it has one, set to this mode."""
    nodes = {node_id: node for node_id, node in prompt.items() if node["class_type"] == "ResidencyMode"}
    return prompt | {node_id: {**node, "inputs": {**node["inputs"], "mode": name}} for node_id, node in nodes.items()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_draws_the_same_images_in_every_mode_as_comfyuis_own_nodes(server: Server, path: Path):
    saved = json.loads(path.read_text(encoding="utf-8"))
    plain = parse_workflow(to_core(saved, core_nodes().keys()).data).prompt
    ours = parse_workflow(to_residency(saved, core_nodes().keys()).data).prompt
    assert not [node for node in plain.values() if node["class_type"].startswith("Residency")]
    assert len([node for node in ours.values() if node["class_type"].startswith("Residency")]) >= 5

    # all of one kind behind each other: ComfyUI then loads each model twice, not ten times
    drawn = [[pixels(image) for image in server.run(small(plain, seed), mode("off")).images] for seed, _ in enumerate(MODES)]
    assert all(drawn) and len({images[-1] for images in drawn}) == len(MODES)
    modes = {}
    for seed, name in enumerate(MODES):
        run = server.run(in_mode(small(ours, seed), name), mode(name))
        assert [pixels(image) for image in run.images] == drawn[seed], name
        modes[name] = {trace["prompt_id"]: trace["mode"] for trace in server.get_json("/residency/traces")["traces"]}.get(run.prompt_id)
    assert modes == {"auto": "balanced", "high-vram": "high-vram", "balanced": "balanced", "low-vram": "low-vram", "off": None}
    assert server.get_json("/residency/status")["failures"] == 0


def test_every_example_lists_the_models_that_the_demo_makes_and_nothing_of_another_machine():
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        files = {
            value for node in json.loads(text)["nodes"] for value in node.get("widgets_values", ()) if str(value).endswith(".safetensors")
        }
        assert files and all(str(name).startswith("residency_") for name in files), path.name
