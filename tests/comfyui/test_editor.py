"""Our workflows in ComfyUI's editor: what a browser queues for them is what we read from the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from front_end import NEEDS_A_BROWSER
from subgraph_story import HOLE, STORIES

from residency.workflow.convert import to_core, to_residency
from residency.workflow.core_nodes import core_nodes
from residency.workflow.file import parse_workflow

EXAMPLES = sorted((Path(__file__).parents[2] / "example_workflows").glob("*.json"))
QUEUED = "async data => { await window.app.loadGraphData(data); return (await window.app.graphToPrompt()).output }"

pytestmark = NEEDS_A_BROWSER


def plain(prompt: dict[str, Any]) -> dict[str, Any]:
    """Class names and inputs: the rest are titles."""
    return {node_id: {"class_type": node["class_type"], "inputs": node["inputs"]} for node_id, node in prompt.items()}


def test_the_editor_queues_what_we_read_from_the_examples_and_from_their_conversions(used_page: Any):
    for path in EXAMPLES:
        saved = json.loads(path.read_text(encoding="utf-8"))
        core = to_core(saved, core_nodes().keys()).data
        for data in (saved, core, to_residency(core, core_nodes().keys()).data):
            assert plain(used_page.evaluate(QUEUED, data)) == plain(parse_workflow(data).prompt), path.stem


def test_a_workflow_without_our_inputs_gets_their_defaults_in_the_editor(used_page: Any):
    """What an older version of the pack saved: fewer widget values than the node has now."""
    node = {"id": 1, "type": "ResidencyUNETLoader", "pos": [0, 0], "size": [300, 90], "flags": {}, "order": 0, "mode": 0, "inputs": []}
    node |= {"outputs": [{"name": "MODEL", "type": "MODEL", "links": []}], "properties": {}}
    values = ["residency_expert_a.safetensors", "default"]
    data = {"last_node_id": 1, "last_link_id": 0, "nodes": [{**node, "widgets_values": values}], "links": [], "version": 0.4}
    inputs = used_page.evaluate(QUEUED, data)["1"]["inputs"]
    assert inputs == {"unet_name": values[0], "weight_dtype": "default", "memory_mode": "workflow", "strategy": "auto", "priority": 0}


@pytest.mark.parametrize("name", STORIES)
def test_the_editor_queues_what_we_read_of_widgets_that_a_subgraph_shows(used_page: Any, name: str):
    data, width, height = STORIES[name]
    queued, read = plain(used_page.evaluate(QUEUED, data)), plain(parse_workflow(data).prompt)
    (latent,) = (node["inputs"] for node in queued.values() if node["class_type"] == "EmptyLatentImage")
    if name == HOLE and used_page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__.split('.').map(Number)") >= [1, 53]:
        assert latent["height"] is None  # these queue the hole itself, and ComfyUI refuses the prompt
        latent["height"] = height
    assert queued == read
    assert (latent["width"], latent["height"]) == (width, height)
