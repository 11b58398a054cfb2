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


def wired(blueprint: dict[str, Any]) -> dict[str, Any]:
    """The blueprint's node in a workflow of ComfyUI's own loaders."""
    instance = {**blueprint["nodes"][0], "id": 10}
    nodes = [
        ("UNETLoader", ["MODEL"], [], ["residency_expert_a.safetensors", "default"]),
        ("UNETLoader", ["MODEL"], [], ["residency_expert_b.safetensors", "default"]),
        ("CLIPLoader", ["CLIP"], [], ["residency_clip_l.safetensors", "stable_diffusion", "default"]),
        ("VAELoader", ["VAE"], [], ["residency_tae.safetensors"]),
        ("CLIPTextEncode", ["CONDITIONING"], [("clip", 3)], ["a pier"]),
        ("EmptySD3LatentImage", ["LATENT"], [], [64, 64, 1]),
        ("VAEDecode", ["IMAGE"], [("samples", 10), ("vae", 4)], []),
        ("SaveImage", [], [("images", 7)], ["blueprint"]),
    ]
    ends = [(8 + slot, 10, slot, origin) for slot, origin in enumerate((1, 2, 5, 5, 6))]
    links = [[link_id, origin, 0, target, slot, "*"] for link_id, target, slot, origin in ends]
    saved = []
    for node_id, (kind, outputs, inputs, values) in enumerate(nodes, 1):
        own = [(len(links) + 20 + slot, origin, node_id, slot) for slot, (_, origin) in enumerate(inputs)]
        links += [[link_id, origin, 0, target, slot, "*"] for link_id, origin, target, slot in own]
        given = [{"name": name, "type": "*", "link": link[0]} for (name, _), link in zip(inputs, own, strict=True)]
        place = {"id": node_id, "type": kind, "pos": [0, 0], "size": [1, 1], "flags": {}, "order": node_id, "mode": 0, "properties": {}}
        saved.append(
            {**place, "inputs": given, "outputs": [{"name": one, "type": one, "links": []} for one in outputs], "widgets_values": values}
        )
    instance["inputs"] = [{**end, "link": 8 + slot} for slot, end in enumerate(instance["inputs"])]
    return {**blueprint, "nodes": [*saved, instance], "links": links, "last_node_id": 10, "last_link_id": 99}


def test_a_blueprint_is_offered_and_draws_what_its_two_samplers_would(server: Server):
    """ComfyUI's node library lists what its server does."""
    folder = Path(__file__).parents[2] / "subgraphs"
    offered = {one["name"] for one in server.get_json("/global_subgraphs").values() if one["source"] == "custom_node"}
    assert {path.stem for path in folder.glob("*.json")} == {"two_experts"} <= offered
    blueprint = json.loads((folder / "two_experts.json").read_text(encoding="utf-8"))
    prompt = parse_workflow(wired(blueprint)).prompt
    samplers = [node["inputs"]["model"][0] for node in prompt.values() if node["class_type"] == "ResidencyKSamplerAdvanced"]
    assert samplers == ["1", "2"]
    (image,) = server.run(small(prompt, 3)).images
    assert pixels(image)
